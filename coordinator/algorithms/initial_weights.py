"""The weights that a run starts from, other than the seed's own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coordinator.algorithms.base import MaskFamily, as_initialised
from coordinator.algorithms.evidence import WarmUpResult
from coordinator.algorithms.mean import Model
from edge_sdk.errors import RunError

__all__ = ["from_the_warm_up", "scaled_by_fan_in", "scaled_to_the_smallest"]


def scaled_by_fan_in(
    family: MaskFamily, state: Mapping[str, NDArray[Any]], findings: WarmUpResult | None
) -> Model:
    """Initial weights, larger where an output unit keeps fewer of its inputs.

    Initialisations give a unit's output a variance that they reckon from all of its
    inputs. With k of n kept it is k / n of that, layer after layer; a factor of
    sqrt(n / k) on the unit's weights restores it (Evci et al., arXiv:2010.03533).
    """
    first = as_initialised(family, state, findings)
    masked = {}
    for name, values in first.masked.items():
        rows = first.mask[name].reshape(len(first.mask[name]), -1)
        kept = np.count_nonzero(rows, axis=1)
        gain = np.sqrt(rows.shape[1] / np.maximum(kept, 1)).astype(np.float32)
        masked[name] = values * np.repeat(gain, kept)
    return replace(first, masked=masked)


def scaled_to_the_smallest(
    gain: float,
    family: MaskFamily,
    state: Mapping[str, NDArray[Any]],
    _findings: WarmUpResult | None,
) -> Model:
    """As `scaled_by_fan_in`, reckoned from the inputs that the smallest mask keeps.

    A unit that the smallest mask cuts is scaled to its inputs in the top mask. With one
    mask both are the same.

    Args:
        gain: The model's: how nested models are scaled (`Model.gain`).
        family: The first masks.
        state: The seed's initial weights.
    """
    first = as_initialised(family, state, None)
    smallest = list(family.masks.values())[-1]
    masked = {}
    for name, values in first.masked.items():
        top, least = (m[name].reshape(len(m[name]), -1) for m in (first.mask, smallest))
        held, inputs = np.count_nonzero(top, axis=1), np.count_nonzero(least, axis=1)
        kept = np.maximum(np.where(inputs > 0, inputs, held), 1)
        factor = np.sqrt(top.shape[1] / kept).astype(np.float32)
        masked[name] = values * np.repeat(factor, held)
    return replace(first, masked=masked, gain=gain)


def from_the_warm_up(
    family: MaskFamily, state: Mapping[str, NDArray[Any]], findings: WarmUpResult | None
) -> Model:
    """The mean of the warm-up's weights; initial ones where no device kept any.

    Raises:
        RunError: If the warm-up's weights are not there.
    """
    if findings is None or findings.model is None:
        raise RunError("a run starts from its warm-up's weights, and there is none")
    first, warm = as_initialised(family, state, findings), findings.model
    masked = {}
    for name, values in first.masked.items():
        held = warm.mask[name][first.mask[name]]
        masked[name] = np.where(held, warm.full(name)[first.mask[name]], values)
    return replace(first, masked=masked, dense=warm.dense)
