"""Models of a run on disk: checkpoints in, checkpoints out."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path

from coordinator.aggregate import Model
from coordinator.algorithm import Family
from coordinator.families import pack_family, unpack_family
from edge_sdk.checkpoint import (
    Checkpoint,
    load_checkpoint,
    replace_file,
    save_checkpoint,
)
from edge_sdk.errors import StateError
from edge_sdk.sparse import LayerShape, Mask

__all__ = ["ModelStore", "model_name"]

KEEP = 3  # rounds whose checkpoint stays; the last one is what resume starts from


def model_name(round_no: int) -> str:
    """File name of the model after a round; round 0 is where training starts."""
    return f"round-{round_no:05d}.safetensors"


class ModelStore:
    """Checkpoints in a run's folder.

    Args:
        folder: The run's folder.
        task: The task's reference, written into each checkpoint.
        layers: The model's maskable layers.
    """

    def __init__(self, folder: Path, task: str, layers: tuple[LayerShape, ...]) -> None:
        self._folder, self._task, self._layers = folder, task, layers

    def save(self, name: str, model: Model, round_no: int) -> str:
        """Writes the global model; returns its file name."""
        self._write(
            self._folder / "checkpoints" / name, model, model.mask, round_no, {}
        )
        return name

    def load(self, name: str) -> Model:
        """Reads a global model back."""
        path = self._folder / "checkpoints" / name
        if not path.exists():
            raise _not_there(self._folder / "ledger.sqlite", path)
        found = load_checkpoint(path)
        return Model(found.mask, found.values, found.dense)

    def save_family(self, round_no: int, family: Family) -> None:
        """Writes the masks that training goes on with after a round that moved them."""
        replace_file(self._masks(round_no), pack_family(family))

    def load_family(self, round_no: int) -> Family | None:
        """The newest masks written up to a round, or None if none ever moved.

        Raises:
            StateError: If their file is damaged.
        """
        written = {int(path.stem[-5:]): path for path in self._masks_there()}
        until = [no for no in written if no <= round_no]
        if not until:
            return None
        return unpack_family(written[max(until)], self._layers)

    def prune(self, round_no: int) -> None:
        """Deletes checkpoints that nothing resumes from any more."""
        if round_no <= KEEP:
            return
        old = self._folder / "checkpoints" / model_name(round_no - KEEP)
        old.unlink(missing_ok=True)
        past = sorted(self._masks_there())
        needed = self._masks(round_no - KEEP)
        for path, newer in itertools.pairwise(past):
            if newer <= needed:  # a round that is kept goes on from the newer one
                path.unlink()

    def _masks(self, round_no: int) -> Path:
        return self._folder / "checkpoints" / f"round-{round_no:05d}.masks"

    def _masks_there(self) -> list[Path]:
        return list((self._folder / "checkpoints").glob("round-*.masks"))

    def deploy(
        self,
        model: Model,
        family: Family,
        round_no: int,
        scores: Mapping[float, Mapping[str, float]],
    ) -> dict[float, Path]:
        """Writes one checkpoint per density, to export from."""
        written = {}
        for density, mask in family.masks.items():
            path = self._folder / "models" / f"density-{density:g}.safetensors"
            self._write(path, model, mask, round_no, scores.get(density, {}))
            written[density] = path
        return written

    def _write(
        self,
        path: Path,
        model: Model,
        mask: Mask,
        round_no: int,
        metrics: Mapping[str, float],
    ) -> None:
        values = model.on(mask)
        save_checkpoint(
            path,
            Checkpoint(
                task=self._task,
                round_no=round_no,
                layers=self._layers,
                mask=mask,
                values=values.masked,
                dense=values.dense,
                metrics=metrics,
            ),
        )


def _not_there(ledger: Path, path: Path) -> StateError:
    """The error of a checkpoint that the ledger names and that is not on the disk."""
    newest = max((p.name for p in path.parent.glob("round-*.safetensors")), default="")
    if newest > path.name:
        return StateError(
            f"{ledger} goes on from {path.name} and the newest checkpoint is {newest}: "
            "the ledger has lost its latest entries, as when its -wal file was cut "
            "off or left behind, or an older copy was put in its place",
            remedy="Put ledger.sqlite and ledger.sqlite-wal of one moment back, best "
            "with the whole folder; without a copy, start in a new folder.",
        )
    return StateError(
        f"{path} is gone, and {ledger} goes on from it",
        remedy="Put it back from a copy; without one, start in a new folder.",
    )
