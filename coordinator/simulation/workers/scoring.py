"""The global model scored at each deployed density, a part of the examples a job."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from coordinator.algorithms.base import MaskFamily
from coordinator.algorithms.mean import Model
from coordinator.ledger.device_rows import EvaluationRow
from coordinator.server.devices.answers import together
from coordinator.simulation.fleet import SimulatedDevice
from coordinator.simulation.workers.interface import EvaluationChunk, Workers, results
from coordinator.views.device_scores import OnDevices, on_devices
from coordinator.views.scores import shown
from edge_sdk.evaluation.metric import Metric
from edge_sdk.evaluation.tally import total, values_of
from edge_sdk.wire.named import Holdout
from edge_sdk.wire.structure import encode_structure
from edge_sdk.wire.values import pack_values

__all__ = ["scores_of", "tests_of"]

CHUNK = 1000  # examples per job: fixed, so that sums do not depend on workers


def tests_of(
    pool: Workers,
    model: Model,
    family: MaskFamily,
    devices: Mapping[str, tuple[SimulatedDevice, float]],
    holdout: Holdout,
    metrics: Sequence[Metric],
) -> dict[str, OnDevices]:
    """Tests of a model on devices' own examples, by density as text.

    Args:
        pool: Workers.
        model: On the family's top mask.
        family: Whose masks are deployed.
        devices: Device -> itself, and the density that it deploys.
        holdout: Which examples are held out.
        metrics: What is measured, as the workers know it.

    Raises:
        RunError: If a worker died.
    """
    jobs = []
    for device, (its, density) in devices.items():
        mask = family.of(device, density)
        structure = b"" if family.drawn(mask) else encode_structure(mask)
        values, recipe = pack_values(model.on(mask), mask), family.recipe(mask)
        jobs.append(
            EvaluationChunk(
                *(recipe, structure, values, 0, 0, its.folder, holdout, model.adapters)
            )
        )
    rows = []
    for (device, (_, density)), found in zip(
        devices.items(), results(pool.score, jobs), strict=True
    ):
        tally = found.tally
        sums = {name: one.tolist() for name, one in tally.sums.items()}
        told = values_of(metrics, tally, f"test on {device}")
        why = "; ".join(filter(None, tally.failed.values()))
        rows.append(EvaluationRow(0, density, device, tally.examples, sums, told, why))
    rows += [
        together([r for r in rows if r.density == d], metrics)
        for d in sorted({row.density for row in rows})
    ]
    boards = {name: device.board for name, (device, _) in devices.items()}
    return dict(on_devices(rows, shown(metrics[0]), boards).get(0, {}))


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
                *(recipe, structure, values, start, min(start + CHUNK, examples)),
                adapters=model.adapters,
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
