"""A trainer that trains honestly and sends something else."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import ClassVar

import msgspec

from edge_sdk.training.runner import TaskRunner
from edge_sdk.training.update import PackedUpdate
from edge_sdk.wire.blob import manifest_of
from edge_sdk.wire.messages import TaskOrder
from edge_sdk.wire.values import Values, pack_values, unpack_values

__all__ = ["Change", "Liar"]

Change = Callable[[Values, TaskOrder], Values]


class Liar(TaskRunner):
    """Sends what `change` makes of its update, and claims other examples."""

    change: ClassVar[Change]
    claims: ClassVar[int] = 1

    def claimed(self, examples: int) -> int:
        return self.claims * examples

    def run(
        self,
        order: TaskOrder,
        base: bytes,
        stop: Callable[[], bool],
        structure: bytes = b"",
    ) -> PackedUpdate:
        packed = super().run(order, base, stop, structure)
        mask = self._models.mask(order.mask, structure)
        sent = type(self).change(unpack_values(packed.payload, mask), order)
        payload = pack_values(sent, mask)
        norm = sent.norm()
        offer = msgspec.structs.replace(
            packed.offer,
            manifest=manifest_of(payload),
            examples=self.claimed(packed.offer.examples),
            norm=norm if norm == norm else packed.offer.norm,  # noqa: PLR0124 - NaN
        )
        return dataclasses.replace(packed, offer=offer, payload=payload)
