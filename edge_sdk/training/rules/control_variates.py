"""Control variates on their way: out of a base, into and out of a device's memory."""

from __future__ import annotations

import logging

import numpy as np

from edge_sdk.errors import EdgeError
from edge_sdk.sparse import Mask
from edge_sdk.training.rules.corrections import Variates
from edge_sdk.wire.values import Values, pack_values, unpack_values

__all__ = ["control_of", "packed_variates", "remembered"]

log = logging.getLogger(__name__)

CONTROL = ".control."  # dense entries of a base that are no entries of the model


def control_of(start: Values) -> tuple[Variates, Values]:
    """The coordinator's control variates, and the base without them."""
    ours = {
        name.removeprefix(CONTROL): np.asarray(array, np.float32)
        for name, array in start.dense.items()
        if name.startswith(CONTROL)
    }
    dense = {n: a for n, a in start.dense.items() if not n.startswith(CONTROL)}
    return ours, Values(start.mask_digest, start.masked, dense)


def remembered(memory: bytes, mask: Mask, ours: Variates) -> Variates:
    """Control variates of this device: 0 where it has none that fit this mask."""
    own: dict[str, np.ndarray] = {}
    if memory:
        try:
            found = unpack_values(memory, mask)
            own = {**found.masked, **found.dense}
        except EdgeError as error:
            log.info("control variates begin anew: %s", error)
    fits = {n: n in own and own[n].shape == c.shape for n, c in ours.items()}
    return {n: own[n] if fits[n] else np.zeros_like(c) for n, c in ours.items()}


def packed_variates(after: Variates, start: Values, mask: Mask) -> bytes:
    """A device's next control variates as bytes for its memory.

    Args:
        after: By the parameter's name.
        start: The base without control variates: says which entries are masked.
        mask: The device's.
    """
    of_mask = {n: after.get(n, np.zeros_like(v)) for n, v in start.masked.items()}
    dense = {n: a for n, a in after.items() if n not in of_mask}
    return pack_values(Values(mask.digest, of_mask, dense), mask)
