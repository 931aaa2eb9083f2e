"""Models of a run on disk: checkpoints in, checkpoints out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from coordinator.aggregate import Model
from coordinator.algorithm import Family
from edge_sdk.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
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
        found = load_checkpoint(self._folder / "checkpoints" / name)
        return Model(found.mask, found.values, found.dense)

    def prune(self, round_no: int) -> None:
        """Deletes checkpoints that nothing resumes from any more."""
        old = self._folder / "checkpoints" / model_name(round_no - KEEP)
        if round_no > KEEP:
            old.unlink(missing_ok=True)

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
