"""`DividedExamples`: a device's examples, those it trains on and those it tests on."""

from __future__ import annotations

import io
import logging
from pathlib import Path

import numpy as np

from edge_sdk.checkpoint import replace_file
from edge_sdk.errors import DataError
from edge_sdk.evaluation.holdout import Split, split
from edge_sdk.tasks.arrays import check_present
from edge_sdk.tasks.task import Examples
from edge_sdk.wire.named import Holdout

__all__ = ["DividedExamples"]

log = logging.getLogger(__name__)

FILE = "holdout.npz"
_NONE = "there are no examples here"


class DividedExamples:
    """Examples of one device under the division that orders ask for.

    What was trained on and what was held out is remembered by key where there is a
    folder, so that data which arrive later are divided beside it.

    Args:
        examples: All that the device trains on without a holdout.
        own: Its own test examples, of a task with `holdout_data`; then none are held
            out of the others.
        folder: Where the division is remembered; None divides anew in each life.
    """

    def __init__(
        self,
        examples: Examples,
        own: Examples | None = None,
        folder: Path | None = None,
    ) -> None:
        self._all, self._own, self._folder = examples, own, folder
        self._path = None if folder is None else folder / FILE
        self._by: Holdout | None = None  # which division is at hand
        self._parts: tuple[Examples, Examples | None, str] = (examples, own, "")

    def over(self, examples: Examples, own: Examples | None = None) -> DividedExamples:
        """The same device's examples, and its own tests, once others have come."""
        return DividedExamples(examples, own, self._folder)

    def train(self, by: Holdout | None) -> Examples:
        """The examples to train on; all of them where nothing is held out."""
        self._divide(by)
        return self._parts[0]

    def held(self, by: Holdout | None) -> tuple[Examples | None, str]:
        """The examples to test on, or None and why there are none."""
        self._divide(by)
        _, held, why = self._parts
        return held, "" if held else why or "the order holds no examples out"

    def held_so_far(self) -> tuple[Examples | None, str]:
        """The examples that no order has trained on so far, or None and why.

        Another thread may divide meanwhile; after a restart the last division counts.
        """
        _, held, why = self._parts
        if held is not None or self._path is None or not len(self._all):
            return held, why
        try:
            with np.load(self._path, allow_pickle=False) as found:
                by = Holdout(0.5, int(found["seed"][0]))  # the share says nothing here
        except (OSError, ValueError, KeyError, EOFError):
            return None, why or "none were held out so far"
        kept = self._remembered(by)
        try:
            again = split(
                *(self._all.inputs, self._all.targets, self._all.groups),
                share=0.0,
                seed=by.seed,
                before=(kept["trained"], kept["held"]),
                look=self._look,
            )
        except DataError as error:
            return None, str(error)
        if not len(again.held):
            return None, why or "none of those that were held out are left"
        return self._all.take(again.held), ""

    def _look(self) -> None:
        check_present(self._all.inputs, self._all.targets)

    def _divide(self, by: Holdout | None) -> None:
        if by == self._by or self._own is not None:
            return
        self._parts, self._by = self._divided(by), by

    def _divided(self, by: Holdout | None) -> tuple[Examples, Examples | None, str]:
        if by is None or not len(self._all):
            return self._all, None, "" if len(self._all) else _NONE
        found = self._split(by)
        if not len(found.held):
            log.warning("nothing is held out: %s", found.why)
            return self._all, None, found.why
        return self._all.take(found.train), self._all.take(found.held), ""

    def _split(self, by: Holdout) -> Split:
        given = self._all
        kept = self._remembered(by)
        found = split(
            *(given.inputs, given.targets, given.groups),
            share=by.share,
            seed=by.seed,
            before=(kept["trained"], kept["held"]),
            look=self._look,
        )
        after = {"trained": found.trained_keys, "held": found.held_keys}
        if self._path is not None and any(
            not np.array_equal(kept[name], after[name]) for name in after
        ):
            content = io.BytesIO()
            np.savez(
                content,
                seed=np.array([by.seed]),
                trained=after["trained"],
                held=after["held"],
            )
            replace_file(self._path, content.getvalue())  # before anything is trained
        return found

    def _remembered(self, by: Holdout) -> dict[str, np.ndarray]:
        """Keys trained on and held out so far; none of another run's."""
        nothing = {name: np.zeros(0, np.uint64) for name in ("trained", "held")}
        if self._path is None:
            return nothing
        try:
            with np.load(self._path, allow_pickle=False) as found:
                if int(found["seed"][0]) != by.seed:
                    return nothing
                return {name: found[name].astype(np.uint64) for name in nothing}
        except FileNotFoundError:
            return nothing
        except (OSError, ValueError, KeyError, EOFError) as error:
            log.warning("%s cannot be read, examples are divided anew: %s", FILE, error)
            return nothing
