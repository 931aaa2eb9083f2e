"""Warm-ups that several runs have in common: computed once, bytes counted in each.

What a warm-up finds depends on the seed, its rate, the densities and who trains at
which, and on nothing else: neither on momentum, nor on the rounds that follow, nor on
what a method does with it. A run that is told what an earlier one found goes on as if
it had found it itself, to the last bit.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import coordinator
from coordinator.algorithms.base import Algorithm, MaskFamily
from coordinator.algorithms.evidence import LayerSensitivity, WarmUpResult
from coordinator.algorithms.load import load_algorithm
from coordinator.simulation.checkpoints import SimulationMemory
from edge_sdk.checkpoint import replace_file
from edge_sdk.sparse import LayerShape
from examples.unequal_fleets.methods import Method

__all__ = ["WarmUps", "knowing"]


@dataclass(frozen=True)
class WarmUps:
    """The warm-up of one run, if an earlier run has had it.

    Attributes:
        results: Folder of all results.
        data: Name of the data set.
        seed: The run's.
        rate: Of its first round.
        method: Its row.
    """

    results: Path
    data: str
    seed: int
    rate: float
    method: Method

    def algorithm(self) -> Algorithm:
        """The row's algorithm; it has no warm-up to do where that is known."""
        found, place = load_algorithm(self.method.algorithm), self._place()
        if place is None or not place.exists():
            return found
        return knowing(found, json.loads(place.read_text())["kept"])

    def after(self, done: coordinator.Run) -> int:
        """Bytes of the warm-up that the run has not sent; a new warm-up is kept."""
        place = self._place()
        if place is None:
            return 0
        first = done.records[0]
        if not first.asked:
            return int(json.loads(place.read_text())["bytes"])
        kept = SimulationMemory(done.folder, done.records).get("evidence")
        found = {"kept": kept, "bytes": first.bytes_up + first.bytes_down}
        place.parent.mkdir(parents=True, exist_ok=True)
        replace_file(place, json.dumps(found, indent=1).encode())
        return 0

    def _place(self) -> Path | None:
        """Where it is; None of a row whose devices find nothing that others use."""
        wanted = load_algorithm(self.method.algorithm).evidence
        if not isinstance(wanted, LayerSensitivity):
            return None
        ladder = "-".join(f"{density:g}" for density in self.method.densities)
        how = f"e{wanted.epochs}-p{wanted.prune_rate:g}-{wanted.spill}"
        name = f"{ladder}-{how}-{self.rate:g}-s{self.seed}.json"
        return self.results / "warm-up" / self.data / name


def knowing(algorithm: Algorithm, kept: Mapping[str, float]) -> Algorithm:
    """The algorithm as it is after a warm-up that has found so many kept weights.

    Args:
        algorithm: Whose warm-up gives layer sensitivities.
        kept: Weight name to mean kept count.
    """

    def plan(
        layers: Sequence[LayerShape],
        densities: Sequence[float],
        _findings: WarmUpResult | None,
        seed: int,
    ) -> MaskFamily:
        return algorithm.plan(layers, densities, WarmUpResult(kept=kept), seed)

    return replace(algorithm, evidence=None, plan=plan)
