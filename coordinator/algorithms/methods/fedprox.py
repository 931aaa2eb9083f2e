"""FedProx (Li et al., arXiv:1812.06127): local training is pulled back to its base."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from coordinator.algorithms.base import Algorithm, RoundContext, always_frozen
from coordinator.algorithms.random_masks import on_replayed_masks
from edge_sdk.errors import SettingsError
from edge_sdk.wire.rules import LocalRule, Proximal

__all__ = ["fedprox"]


def fedprox(*, mu: float = 0.01, on: Algorithm | None = None) -> Algorithm:
    """The loss of every device has mu / 2 * |w - base|^2 added.

    Of the paper's partial work a device does what its pace allows, as in all methods.

    Args:
        mu: Above 0; .001 to 1 in the paper.
        on: Whose masks, warm-up and mean; frozen masks without a warm-up if None.

    Raises:
        SettingsError: If that algorithm trains by a rule of its own, or mu is not
            above 0.
    """
    inner = on or on_replayed_masks("fedprox")
    if inner.local is not always_frozen:
        raise SettingsError(
            f"fedprox on {inner.name}: its devices train by a rule of their own",
            remedy="Take one with frozen masks: fedavg, flash-scaled and others.",
        )
    if not mu > 0:
        raise SettingsError(f"fedprox: mu is {mu}; it has to be above 0")
    name = f"fedprox-on-{on.name}" if on else inner.name
    return replace(inner, name=name, local=partial(_pulled_back, mu))


def _pulled_back(mu: float, _context: RoundContext) -> LocalRule:
    return Proximal(mu=mu)
