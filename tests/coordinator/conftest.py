"""An order and an offer that fit it, for the tests of the coordinator's decisions."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from edge_sdk.wire.blob import manifest_of
from edge_sdk.wire.messages import MaskRecipe, Offer, TaskOrder, Training
from edge_sdk.wire.rules import Frozen, WarmUp


def _order(
    task_id: str = "1-a",
    *,
    digest: bytes = bytes(32),
    rule: Frozen | WarmUp | None = None,
) -> TaskOrder:
    return TaskOrder(
        id=task_id,
        round_no=1,
        density=0.5,
        base=manifest_of(bytes(100)),
        mask=MaskRecipe(1, {"fc": 2}, digest),
        rule=rule or Frozen(),
        training=Training(epochs=1, batch_size=4, learning_rate=0.1),
        ttl_ms=1000,
        shard=0,
        codec="fp32",
    )


def _offer(task_id: str = "1-a", content: bytes = b"update", chunk: int = 1) -> Offer:
    return Offer(
        task_id=task_id,
        manifest=manifest_of(content, chunk),
        mask_digest=bytes(32),
        codec="fp32",
        examples=8,
        norm=1.0,
        metrics={"loss": 0.5},
    )


@pytest.fixture(scope="session")
def order() -> Callable[..., TaskOrder]:
    """Makes an order."""
    return _order


@pytest.fixture(scope="session")
def offer() -> Callable[..., Offer]:
    """Makes an offer of a content in chunks of a size."""
    return _offer
