"""FLASH (arXiv:2208.13092): SPDST for equal devices, hetero-FLASH for unequal ones.

`flash_edge` is our default. In hetero-FLASH a nested network's signal dies from layer
to layer, and it is trained by few devices while its weights follow what others make of
them; the default mends both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from coordinator.algorithms.base import (
    Algorithm,
    MaskFamily,
    RoundContext,
    as_initialised,
    the_devices_own,
)
from coordinator.algorithms.evidence import (
    LayerSensitivity,
    Replay,
    Trained,
    WarmUpResult,
    layer_densities,
)
from coordinator.algorithms.initial_weights import (
    from_the_warm_up,
    grown_unless_normed,
    scaled_by_fan_in,
)
from coordinator.algorithms.mean import coverage_mean
from coordinator.algorithms.random_masks import random_at_evidence
from coordinator.algorithms.top_k_masks import chosen, magnitudes
from coordinator.algorithms.unit_masks import units_at_evidence
from edge_sdk.errors import RunError
from edge_sdk.sparse import LayerShape
from edge_sdk.wire.rules import LocalRule, Sandwich

__all__ = [
    "flash_edge",
    "flash_scaled",
    "flash_trained",
    "hetero_flash",
    "largest_at_layer_densities",
    "spdst",
]

DAMPING = 0.5  # power of a weight's coverage that scales its step


def spdst(*, epochs: int = 10) -> Algorithm:
    """Measure sensitivity once, draw one random mask, freeze it, train."""
    return Algorithm(
        name="flash", evidence=LayerSensitivity(epochs=epochs), plan=random_at_evidence
    )


def flash_scaled() -> Algorithm:
    """SPDST, its first weights scaled to the inputs that each unit keeps.

    Thin layers pass on too little of their input: MNISTNet learns all the same, smaller
    networks stay at chance (docs/results-appendix.md).
    """
    return replace(spdst(), name="flash-scaled", start=scaled_by_fan_in)


def hetero_flash(*, epochs: int = 10) -> Algorithm:
    """SPDST at the top density; weaker devices train a nested sub-mask."""
    return replace(spdst(epochs=epochs), name="hetero-flash", assign=the_devices_own)


def flash_edge(*, epochs: int = 10) -> Algorithm:
    """hetero-FLASH by units, whose stronger devices train the weaker networks as well.

    Five things differ from hetero-FLASH: masks are cut by units, each batch of a
    stronger device trains the weaker networks too, all networks begin as one function,
    a weight's step is scaled by the root of its coverage, and each density has norm
    statistics of its own. Measured in docs/adr.

    Args:
        epochs: Of the warm-up; 0 for none: its mask moves are replayed on the initial
            weights, as in `equal_counts`.
    """
    return replace(
        hetero_flash(epochs=epochs),
        name="flash-edge",
        evidence=LayerSensitivity(epochs=epochs) if epochs else Replay(),
        plan=units_at_evidence,
        local=_all_networks,
        aggregate=partial(coverage_mean, damping=DAMPING, norms=True),
        start=grown_unless_normed,
    )


def _all_networks(_moment: RoundContext) -> LocalRule:
    return Sandwich()


def flash_trained(name: str, *, learned: bool, warm: bool) -> Algorithm:
    """SPDST that keeps more of its warm-up than layer densities; one upload more each.

    Args:
        name: Its name in settings and results.
        learned: Whether the mask keeps the largest weights of the warm-up's mean; it is
            drawn at random else, as in FLASH.
        warm: Whether training starts from the warm-up's mean weights.
    """
    plan = largest_at_layer_densities if learned else random_at_evidence
    start = from_the_warm_up if warm else as_initialised
    return replace(spdst(), name=name, evidence=Trained(), plan=plan, start=start)


def largest_at_layer_densities(
    layers: Sequence[LayerShape],
    densities: Sequence[float],
    findings: WarmUpResult | None,
    seed: int,
) -> MaskFamily:
    """As `random_at_evidence`, at the places of the warm-up's largest weights.

    Raises:
        RunError: If there is no evidence.
    """
    profile = layer_densities(layers, findings)
    if findings is None or findings.model is None:
        raise RunError("FLASH plans from its warm-up's weights, and there is none")
    scores = magnitudes(findings.model)
    return chosen(layers, densities, profile, scores, str(seed))
