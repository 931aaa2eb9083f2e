"""The weights that a run starts from, other than the seed's own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coordinator.algorithms.base import MaskFamily, as_initialised
from coordinator.algorithms.dense import norms_in
from coordinator.algorithms.evidence import WarmUpResult
from coordinator.algorithms.mean import Model
from edge_sdk.errors import RunError

__all__ = [
    "from_the_warm_up",
    "grown_from_the_smallest",
    "grown_unless_normed",
    "scaled_by_fan_in",
]


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


def grown_from_the_smallest(
    family: MaskFamily,
    state: Mapping[str, NDArray[Any]],
    _findings: WarmUpResult | None,
) -> Model:
    """As `scaled_by_fan_in` in the smallest mask; all nested models are one function.

    A unit's weights are scaled to its inputs in the smallest mask that keeps any of
    them, and those that only larger masks keep begin at 0: training grows the larger
    models out of the smallest. With one mask this is `scaled_by_fan_in`.
    """
    first = as_initialised(family, state, None)
    masked = {}
    for name, values in first.masked.items():
        top = first.mask[name].reshape(len(first.mask[name]), -1)
        factor = np.zeros(top.shape, np.float32)
        new = np.ones(len(top), np.bool_)
        for mask in [*family.masks.values()][::-1]:
            held = mask[name].reshape(top.shape)
            inputs = np.count_nonzero(held, axis=1)
            scale = np.sqrt(top.shape[1] / np.maximum(inputs, 1))
            factor += held * (new * scale)[:, np.newaxis]
            new &= inputs == 0
        masked[name] = values * factor[top]
    return replace(first, masked=masked)


def grown_unless_normed(
    family: MaskFamily, state: Mapping[str, NDArray[Any]], findings: WarmUpResult | None
) -> Model:
    """As `grown_from_the_smallest`; as `scaled_by_fan_in` with batch norm.

    Batch norm gives each network a signal of its own scale. So none has to begin as
    the smallest one's function, which learns the slowest.
    """
    start = scaled_by_fan_in if norms_in(state) else grown_from_the_smallest
    return start(family, state, findings)


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
