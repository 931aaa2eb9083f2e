"""Refusal of what looks at single updates, and so goes with no secure aggregation."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np

from coordinator.algorithms.base import Aggregate, Algorithm, RoundContext, keep_masks
from coordinator.algorithms.evidence import Replay
from coordinator.algorithms.mean import coverage_mean
from coordinator.algorithms.privacy.distributed import (
    least_survivors,
    steps_with_noise,
)
from coordinator.algorithms.server_step import mean_inside
from edge_sdk.errors import SettingsError
from edge_sdk.sparse import LayerShape
from edge_sdk.sparse.units import Units
from edge_sdk.wire.rules import Frozen, Nested, OneStep, Proximal, Sandwich
from edge_sdk.wire.secure.fixed_point import steps_of

__all__ = ["check_secure"]

_RULES = (Frozen, OneStep, Proximal, Nested, Sandwich)
_UNITS = 64  # of a layer that a plan is tried on
_LEAST_STEPS = 63  # seven bits of a value, the sign with them


def check_secure(
    algorithm: Algorithm,
    *,
    aggregate: str,
    densities: Sequence[float],
    cohort: int,
    least: int,
    shares: int,
    bits: int,
    noise: tuple[float, float],
    where: str,
) -> None:
    """Refuses what needs single updates, which secure aggregation hides.

    Args:
        algorithm: The run's.
        aggregate: The run's setting of that name.
        densities: The run's.
        cohort: Updates wanted per round; 0 for all.
        least: Updates that a sum has at least.
        shares: Devices that hold a share of each one's masks; 0 for enough.
        bits: Of a value on the wire.
        noise: Its multiplier, 0 for none, and the longest update over the largest
            value.
        where: What the message begins with.

    Raises:
        SettingsError: Names the key and the remedy.
    """

    def refused(key: str, why: str, remedy: str) -> SettingsError:
        text = f"{where}key {key}: {why} privacy.secure_aggregation"
        return SettingsError(text, remedy=remedy)

    fits = 'Take algorithm = "equal-counts", or another with frozen masks and a mean.'
    if not isinstance(algorithm.evidence, Replay | None):
        raise refused(
            "algorithm",
            f"the warm-up of {algorithm.name} sends what each device has found, beside",
            'Take algorithm = "equal-counts", or one without a warm-up such as '
            "flash-edge(epochs=0).",
        )
    rule = algorithm.local(RoundContext(1, 1, 1.0, 1))
    moves = algorithm.revise is not keep_masks or algorithm.redraw is not None
    if moves or not isinstance(rule, _RULES) or not _is_mean(algorithm.aggregate):
        raise refused(
            "algorithm",
            f"{algorithm.name} needs single updates, or masks that move; neither goes "
            "with",
            fits,
        )
    if aggregate != "mean":
        raise refused(
            "aggregate",
            f"{aggregate!r} compares updates, which are not seen with",
            'Take aggregate = "mean".',
        )
    if len(set(densities)) > 1 and not _share_values(algorithm, densities):
        raise refused(
            "densities",
            f"{algorithm.name} chooses weight by weight, or scales the weights of "
            "smaller networks, so that densities share nothing to sum under",
            "Set one density, or take an algorithm whose masks are drawn, such as "
            "flash-edge(epochs=0) or equal-counts.",
        )
    if 0 < cohort < least:
        raise refused(
            "cohort",
            f"{cohort} updates are fewer than the {least} (privacy.min_devices) that a "
            "sum has with",
            f"Set cohort to {least} or more, or to 0.",
        )
    if 0 < shares < least:
        raise refused(
            "privacy.num_shares",
            f"{shares} holders of shares are fewer than privacy.min_devices = {least} "
            "in",
            f"Set it to {least} or more, or to 0.",
        )
    survivors = least_survivors(cohort, least)
    if cohort and noise[0] and not steps_with_noise(bits, cohort, survivors, *noise):
        raise refused(
            "privacy.ring_bits",
            f"{bits} bits are too few for the noise of {cohort} devices under",
            "Set ring_bits = 32, or a smaller privacy.clip.",
        )
    if cohort and steps_of(bits, cohort) < _LEAST_STEPS:
        raise refused(
            "privacy.ring_bits",
            f"{bits} bits leave a value of one of {cohort} devices "
            f"{steps_of(bits, cohort)} steps in",
            "Set ring_bits = 32.",
        )


def _share_values(algorithm: Algorithm, densities: Sequence[float]) -> bool:
    """Return whether masks of several densities are drawn, and their weights one value.

    A network of two layers is planned. An algorithm whose plan needs a warm-up, or a
    task's own layers, is not judged here: a round with other masks is not opened.
    """
    if algorithm.evidence is not None:
        return True
    units = Units("first", _UNITS)
    layers = (
        LayerShape("first", (_UNITS, _UNITS), outputs=units),
        LayerShape("last", (_UNITS, _UNITS), inputs=units),
    )
    try:
        family = algorithm.plan(layers, densities, None, 1)
        weights = {layer.name: np.ones(layer.shape, np.float32) for layer in layers}
        first = algorithm.start(family, weights, None)
    except Exception:  # noqa: BLE001 - slots are anybody's code
        return True
    return family.seed is not None and not first.gain


def _is_mean(aggregate: Aggregate) -> bool:
    """Return whether a slot is the mean, or a server step that follows the mean."""
    inner = mean_inside(aggregate)
    return (inner.func if isinstance(inner, partial) else inner) is coverage_mean
