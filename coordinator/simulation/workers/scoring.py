"""The global model scored at each deployed density, a part of the examples a job."""

from __future__ import annotations

from collections.abc import Sequence

from coordinator.algorithms.base import MaskFamily
from coordinator.algorithms.mean import Model
from coordinator.simulation.workers.interface import EvaluationChunk, Workers, results
from edge_sdk.evaluation.metric import Metric
from edge_sdk.evaluation.tally import total, values_of
from edge_sdk.wire.structure import encode_structure
from edge_sdk.wire.values import pack_values

__all__ = ["scores_of"]

CHUNK = 1000  # examples per job: fixed, so that sums do not depend on workers


def scores_of(
    pool: Workers,
    model: Model,
    family: MaskFamily,
    examples: int,
    metrics: Sequence[Metric],
) -> dict[str, dict[str, float]]:
    """Density (as text) to the metrics' values over the evaluation set.

    Args:
        pool: Workers.
        model: On the family's top mask.
        family: Whose masks are deployed.
        examples: Size of the evaluation set.
        metrics: What is measured, as the workers know it.

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
        whole = total(one.tally for one in part)
        scores[f"{density:g}"] = values_of(metrics, whole, f"density {density:g}")
    return scores
