"""The slots of an algorithm in a run: what each gives, and errors by the slot's name.

A slot is the user's own code. What it raises, or gives in place of what it should, is
an `AlgorithmError` that names the slot: no device is taken to be the cause.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any

from coordinator.algorithms.base import Algorithm
from coordinator.algorithms.mean import Contribution
from coordinator.algorithms.slots.results import GIVES, wrong_fit, wrong_kind
from edge_sdk.errors import AlgorithmError, DensityError
from edge_sdk.tasks.user_errors import told

__all__ = ["MAX_FAILURES", "named_slots", "run_failed", "wrong_result"]

# So many rounds in a row in which a slot fails end the run: it is a function of model
# and updates, so it mostly fails again; other devices may yet bring other updates.
MAX_FAILURES = 3

SAID = 400  # characters of an exception that a message repeats


def named_slots(algorithm: Algorithm) -> Algorithm:
    """The same algorithm; what goes wrong in a slot is raised under the slot's name.

    Errors of the run itself pass as they are: a disk that refuses while updates are
    read, a density below what the layers' floors allow. So does an interrupt.

    Args:
        algorithm: Any.

    Returns:
        An algorithm whose slots raise `AlgorithmError`.
    """
    slots: dict[str, Any] = {
        slot: _named(algorithm.name, slot, getattr(algorithm, slot))
        for slot in GIVES
        if getattr(algorithm, slot) is not None
    }
    return replace(algorithm, **slots)


def run_failed(round_no: int, error: AlgorithmError) -> AlgorithmError:
    """The error of a run that ends because its algorithm has failed too often.

    Args:
        round_no: The last round that failed.
        error: What it failed of.
    """
    return AlgorithmError(
        f"the algorithm failed in {MAX_FAILURES} rounds in a row; the last was round "
        f"{round_no}: {error}",
        remedy=error.help,
    )


def wrong_result(slot: str, found: Any, given: tuple[Any, ...]) -> str:
    """The reason why no round can use a slot's result, as in `wrong_kind`."""
    try:
        return wrong_kind(slot, found) or wrong_fit(slot, found, given)
    except Exception as error:  # noqa: BLE001 - it is made of anything
        said = " ".join(str(error).split())[:SAID]
        return f"gave what cannot be used: {type(error).__name__}: {said}"


class _Reading:
    """A round's updates, to be read as often as wanted; what reading them raises."""

    def __init__(self, updates: Iterable[Contribution]) -> None:
        self._updates = updates
        self.failed: BaseException | None = None

    def __iter__(self) -> Iterator[Contribution]:
        try:
            yield from self._updates
        except GeneratorExit:
            raise
        except BaseException as error:
            self.failed = error
            raise


def _named(algorithm: str, slot: str, call: Callable[..., Any]) -> Callable[..., Any]:
    def named(*given: Any) -> Any:
        reading = _Reading(given[1] if slot == "aggregate" else ())
        handed = (given[0], reading) if slot == "aggregate" else given
        handed = (dict(given[0]), given[1]) if slot == "assign" else handed
        try:
            found = call(*handed)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            if reading.failed is not None:
                raise reading.failed from None
            if slot == "plan" and isinstance(error, DensityError):
                raise
            raise _error(algorithm, slot, f"raised {told(error, SAID)}") from error
        if reading.failed is not None:
            raise reading.failed
        wrong = wrong_result(slot, found, given)
        if wrong:
            raise _error(algorithm, slot, wrong)
        if slot == "assign":  # the family's own numbers, not numpy's
            found = {d: given[1][given[1].index(own)] for d, own in found.items()}
        return found

    return named


def _error(algorithm: str, slot: str, why: str) -> AlgorithmError:
    return AlgorithmError(f"slot {slot} of algorithm {algorithm!r} {why}")
