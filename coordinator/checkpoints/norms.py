"""Norm statistics of masks in a checkpoint, beside what the algorithm remembers.

A checkpoint's dense entries are those of its own mask's network, so that it is scored
and exported right. What is pooled over all devices is kept apart, as the others are.
"""

from __future__ import annotations

from dataclasses import replace

from coordinator.algorithms.mean import Model, State

__all__ = ["norms_as_state", "with_state_and_norms"]

_OF = "norms of "  # and the digest of a mask, in hexadecimal
_ALL = f"{_OF}all"


def norms_as_state(model: Model) -> State:
    """Norm statistics as quantities of a checkpoint; none where no mask has its own."""
    if not model.norms:
        return {}
    names = {name for entries in model.norms.values() for name in entries}
    pooled = {name: model.dense[name] for name in model.dense if name in names}
    return {_ALL: pooled} | {_OF + digest: own for digest, own in model.norms.items()}


def with_state_and_norms(model: Model, kept: State) -> Model:
    """The model as it was written.

    Args:
        model: With the dense entries of a checkpoint.
        kept: What `norms_as_state` gave, and what the algorithm remembers.
    """
    state = {name: own for name, own in kept.items() if not name.startswith(_OF)}
    norms = {
        name.removeprefix(_OF): own
        for name, own in kept.items()
        if name.startswith(_OF) and name != _ALL
    }
    dense = {**model.dense, **kept.get(_ALL, {})}
    return replace(model, state=state, norms=norms, dense=dense)
