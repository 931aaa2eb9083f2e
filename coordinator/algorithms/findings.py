"""Findings: the mean of what devices returned as evidence, of a warm-up or a round."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from coordinator.algorithms.evidence import CandidateMasks, Saliency, WarmUpResult
from coordinator.algorithms.evidence import Evidence as WantedEvidence
from coordinator.algorithms.mean import Contribution, Model, clipped, moving_mean
from edge_sdk.sparse import LayerShape, Mask
from edge_sdk.wire.evidence import GRADIENT, Evidence, unpack_evidence
from edge_sdk.wire.values import Values, unpack_values

__all__ = ["mean_findings", "mean_gradient", "returned_findings", "trained_findings"]

BY_MEDIAN = 3  # reports; of two nobody can tell which lies
FARTHEST = 4.0  # from the median; honest devices are within a few percent of it


def mean_findings(
    reports: Iterable[Evidence | Values],
    layers: Sequence[LayerShape],
    weights: Sequence[float] = (),
) -> WarmUpResult:
    """The mean of what the warm-up's devices returned.

    Of three or more devices none says less than a quarter or more than four times what
    the median says of a layer: one that lies neither starves a layer nor feeds it all.

    Args:
        reports: Kept counts, candidates' losses, or scores of every weight; at least
            one.
        layers: The maskable layers.
        weights: How much each device's scores count; empty counts all the same. Kept
            counts always count the same.

    Raises:
        ValueError: If there are not as many weights as reports.
    """
    kept: dict[str, list[int]] = {s.name: [] for s in layers}
    scores = {s.name: np.zeros(s.shape) for s in layers}
    whole, scored = 0.0, False
    shares = iter(weights) if weights else itertools.repeat(1.0)
    pairs = zip(reports, shares, strict=bool(weights))
    losses: list[Sequence[float]] = []
    for report, share in pairs:
        whole += share
        if isinstance(report, Evidence) and report.losses:
            losses.append(report.losses)
            continue
        for s in layers:
            if isinstance(report, Evidence):
                kept[s.name].append(report.counts[s.name])
            else:
                scored = True
                one = report.masked[s.name].astype(np.float64)
                scores[s.name] += share * np.abs(one).reshape(s.shape)
    if losses:
        columns = zip(*losses, strict=True)
        return WarmUpResult(losses=[_bounded_mean(column) for column in columns])
    if scored:
        return WarmUpResult(saliency={n: total / whole for n, total in scores.items()})
    return WarmUpResult(kept={n: _bounded_mean(counts) for n, counts in kept.items()})


def returned_findings(
    evidence: WantedEvidence | None,
    returned: Iterable[tuple[bytes, float]],
    weights: Sequence[float],
    layers: Sequence[LayerShape],
    top: Mask,
) -> WarmUpResult:
    """The mean of what the warm-up's devices returned, as bytes.

    Args:
        evidence: What they were asked for; no trained models.
        returned: (payload, scale that bounds its influence) of each device.
        weights: How much each device counts where the evidence counts by examples.
        layers: The maskable layers.
        top: The mask that scores of weights are on.

    Raises:
        RemoteProtocolError: If bytes are not what was asked for.
    """
    sizes = {layer.name: layer.numel for layer in layers}
    candidates = evidence.count if isinstance(evidence, CandidateMasks) else 0
    reports = (
        clipped(unpack_values(payload, top), scale)
        if isinstance(evidence, Saliency)
        else unpack_evidence(payload, sizes, candidates=candidates)
        for payload, scale in returned
    )
    by_examples = isinstance(evidence, Saliency) and evidence.by_examples
    return mean_findings(reports, layers, weights if by_examples else [])


def _bounded_mean(counts: Sequence[float]) -> float:
    middle = sorted(counts)[(len(counts) - 1) // 2]
    if len(counts) >= BY_MEDIAN:
        low, high = sorted((middle / FARTHEST, middle * FARTHEST))
        return sum(min(max(count, low), high) for count in counts) / len(counts)
    return sum(counts) / len(counts)


def trained_findings(
    base: Model, contributions: Iterable[Contribution]
) -> WarmUpResult:
    """The mean of the warm-up's models; a weight's over the devices that kept it.

    Args:
        base: What the warm-up started from.
        contributions: Sorted by device, each on a mask of its own.
    """
    reports = list(contributions)
    model, coverage = moving_mean(base, reports)
    kept = {n: float(held.sum()) / len(reports) for n, held in coverage.items()}
    return WarmUpResult(kept=kept, model=model)


def mean_gradient(
    contributions: Iterable[Contribution],
) -> dict[str, NDArray[np.float64]]:
    """The devices' mean gradients, by their examples; empty if none were asked for."""
    total: dict[str, NDArray[np.float64]] = {}
    whole = 0.0
    for one in contributions:
        whole += one.examples
        for entry, array in one.change.dense.items():
            if entry.startswith(GRADIENT):
                name = entry.removeprefix(GRADIENT)
                before = total.get(name, np.zeros(array.shape))
                total[name] = before + one.examples * array.astype(np.float64)
    return {name: array / whole for name, array in total.items()}
