"""A simulation's models, masks and plan on disk: where it goes on from."""

from __future__ import annotations

import json
from pathlib import Path

from coordinator.algorithms.base import MaskFamily
from coordinator.algorithms.evidence import WarmUpResult
from coordinator.algorithms.mean import Model
from coordinator.checkpoints.models import ModelStore, model_name
from coordinator.rounds.tasks import mask_seed
from edge_sdk.checkpoint import replace_file
from edge_sdk.json_text import to_json
from edge_sdk.sparse import LayerShape

__all__ = ["SimulationCheckpoints"]

PLAN = "plan.json"


class SimulationCheckpoints:
    """What a run's folder holds beside its settings and its metrics.

    Args:
        folder: The run's.
        task: The task's reference.
        layers: The model's maskable layers.
        seed: The run's; drawn masks follow from it and the plan's counts.
    """

    def __init__(
        self, folder: Path, task: str, layers: tuple[LayerShape, ...], seed: int
    ) -> None:
        self._folder, self._layers, self._seed = folder, layers, seed
        self._store = ModelStore(folder, task, layers)

    def begin(
        self, model: Model, family: MaskFamily, findings: WarmUpResult | None
    ) -> None:
        """Writes the first model, its masks, and what they were planned from."""
        if family.seed is None:
            self._store.save_family(0, family)
        self._store.save(model_name(0), model, 0)
        plan = {
            "evidence": None if findings is None else dict(findings.kept),
            "counts": {str(d): kept for d, kept in family.counts.items()},
        }
        replace_file(self._folder / PLAN, to_json(plan, indent=1).encode())

    def save(self, round_no: int, model: Model, moved: MaskFamily | None) -> None:
        """Writes the model after a round, and its masks if they have moved."""
        if moved is not None:
            self._store.save_family(round_no, moved)
        self._store.save(model_name(round_no), model, round_no)
        self._store.prune(round_no)

    def load(self, round_no: int) -> tuple[Model, MaskFamily]:
        """The model and the masks after a round.

        Raises:
            CheckpointError: If the model cannot be read.
            StateError: If the masks cannot.
        """
        plan = json.loads((self._folder / PLAN).read_text("utf-8"))
        counts = {float(d): dict(kept) for d, kept in plan["counts"].items()}
        at = mask_seed(self._seed, warm_up=False)
        family = self._store.load_family(round_no)
        model = self._store.load(model_name(round_no))
        return model, family or MaskFamily.draw(self._layers, counts, at)
