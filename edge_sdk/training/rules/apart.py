"""Entries that stay on the device: into the values of a task, and out of its update.

A personal entry is trained here and remembered here, with the task whose update went
with it: as an update that does not count is forgotten, so is what it was made with.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from numpy.typing import NDArray

from edge_sdk.errors import EdgeError
from edge_sdk.wire.dense import is_whole
from edge_sdk.wire.parts import Apart, pack_own, unpack_apart, unpack_own
from edge_sdk.wire.values import Values

__all__ = ["OwnParts", "own_parts"]

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class OwnParts:
    """Entries of a model that stay on this device, and the memory of its rule.

    Attributes:
        apart: As the order has it.
        personal: Name to this device's values; the first ones where it has none.
        memory: Of the order's rule; empty for none.
    """

    apart: Apart
    personal: Mapping[str, NDArray[Any]]
    memory: bytes

    def completed(self, base: Values) -> Values:
        """A base with the entries that did not come with it."""
        dense = {**base.dense, **self.apart.frozen, **self.personal}
        return replace(base, dense=dense)

    def travelling(self, change: Values) -> Values:
        """A change without the entries that stay here."""
        apart = {*self.apart.frozen, *self.personal}
        dense = {n: a for n, a in change.dense.items() if n not in apart}
        return replace(change, dense=dense)

    def remembered(self, change: Values, memory: bytes) -> bytes:
        """Content of the device's memory after a task.

        Args:
            change: What training did to the entries.
            memory: What the rule leaves to remember.
        """
        if not self.personal:
            return memory
        after = {n: a + change.dense[n] for n, a in self.personal.items()}
        return pack_own(after, memory)


def own_parts(blob: bytes, remembered: bytes) -> OwnParts:
    """The parts that stay here, for one order.

    Args:
        blob: What its order names as apart; empty for nothing.
        remembered: The device's memory as `OwnParts.remembered` left it; empty for
            none. One that does not fit begins anew.

    Raises:
        RemoteProtocolError: If the blob is malformed.
    """
    apart = unpack_apart(blob)
    if not apart.personal:
        return OwnParts(apart, {}, remembered)
    if not remembered:
        return OwnParts(apart, apart.personal, b"")
    try:
        found, memory = unpack_own(remembered)
    except EdgeError as error:
        log.warning("personal weights begin anew: %s", error)
        return OwnParts(apart, apart.personal, b"")
    own = {n: _fitting(found.get(n), first) for n, first in apart.personal.items()}
    anew = sorted(n for n, array in own.items() if array is None)
    if anew:
        log.warning("personal weights begin anew: %s has changed", ", ".join(anew[:4]))
        return OwnParts(apart, apart.personal, memory)
    return OwnParts(apart, {n: a for n, a in own.items() if a is not None}, memory)


def _fitting(found: NDArray[Any] | None, first: NDArray[Any]) -> NDArray[Any] | None:
    if found is None or found.shape != first.shape:
        return None
    return found if is_whole(found.dtype) == is_whole(first.dtype) else None
