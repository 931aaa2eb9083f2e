"""Orders and offers for the tests of the device runtime."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from edge_sdk.wire.blob import manifest_of
from edge_sdk.wire.messages import MaskRecipe, Offer, TaskOrder, Training
from edge_sdk.wire.rules import Frozen


def _order(task_id: str, round_no: int = 1, base: bytes = b"base") -> TaskOrder:
    return TaskOrder(
        id=task_id,
        round_no=round_no,
        density=0.5,
        base=manifest_of(base),
        mask=MaskRecipe(1, {"fc": 2}, bytes(32)),
        rule=Frozen(),
        training=Training(epochs=1, batch_size=4, learning_rate=0.1),
        ttl_ms=1000,
        shard=0,
        codec="fp32",
    )


def _offer(task_id: str, payload: bytes = b"update") -> Offer:
    return Offer(
        task_id=task_id,
        manifest=manifest_of(payload),
        mask_digest=bytes(32),
        codec="fp32",
        examples=8,
        norm=1.0,
        metrics={"loss": 0.5},
    )


@pytest.fixture(scope="session")
def order() -> Callable[..., TaskOrder]:
    """Makes an order from (task id, round, base)."""
    return _order


@pytest.fixture(scope="session")
def offer() -> Callable[..., Offer]:
    """Makes an offer from (task id, payload)."""
    return _offer
