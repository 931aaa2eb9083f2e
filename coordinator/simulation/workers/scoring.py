"""The global model scored at each deployed density, a part of the examples a job."""

from __future__ import annotations

from coordinator.algorithms.base import MaskFamily
from coordinator.algorithms.mean import Model
from coordinator.simulation.workers.interface import EvaluationChunk, Workers, results
from edge_sdk.training.scoring import means
from edge_sdk.wire.structure import encode_structure
from edge_sdk.wire.values import pack_values

__all__ = ["scores_of"]

CHUNK = 1000  # examples per job: fixed, so that sums do not depend on workers


def scores_of(
    pool: Workers, model: Model, family: MaskFamily, examples: int
) -> dict[str, dict[str, float]]:
    """Density (as text) to the means over the evaluation set, the loss among them.

    Args:
        pool: Workers.
        model: On the family's top mask.
        family: Whose masks are deployed.
        examples: Size of the evaluation set.

    Raises:
        RunError: If a worker died.
    """
    starts = range(0, examples, CHUNK)
    jobs = []
    for mask in family.masks.values():
        structure = b"" if family.drawn(mask) else encode_structure(mask)
        values, recipe = pack_values(model.on(mask), mask), family.recipe(mask)
        jobs += [
            EvaluationChunk(
                recipe, structure, values, start, min(start + CHUNK, examples)
            )
            for start in starts
        ]
    found = results(pool.score, jobs)
    scores = {}
    for place, density in enumerate(family.masks):
        part = found[place * len(starts) : (place + 1) * len(starts)]
        scores[f"{density:g}"] = means(one.tally for one in part)
    return scores
