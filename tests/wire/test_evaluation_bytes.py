"""Bytes that a test on a device adds to its round: packets as they travel."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from msgspec import UNSET

from edge_sdk.sparse import draw, exact_counts, uniform
from edge_sdk.tasks.layers import initial_state, layers_of, make_model
from edge_sdk.tasks.task import load_task
from edge_sdk.wire.blob import manifest_of
from edge_sdk.wire.codec import Header, encode, pack, unpack
from edge_sdk.wire.messages import (
    BaseTest,
    BaseTested,
    Message,
    TaskAck,
    TaskOrder,
    Training,
)
from edge_sdk.wire.named import Holdout, MaskRecipe
from edge_sdk.wire.rules import Frozen
from edge_sdk.wire.values import Values, pack_values

ID = "7-0123456789abcdef"
NAMES = ["accuracy", "macro_f1", "auroc"]


def packet(tag: str, message: Message) -> int:
    header = Header(tag, "home", "pi-1", "coordinator", 3_000_000, 900, 1 << 47, 7)
    return len(encode(header, message, sign=lambda _: bytes(64)))


def added(tag: str, message: Message, **without: Any) -> int:
    plain = msgspec.structs.replace(message, **without)
    return packet(tag, message) - packet(tag, plain)


def bytes_of(task_name: str, density: float, metrics: int = 1) -> tuple[int, int]:
    """(model and update, what a test adds to messages), of one device and round."""
    task = load_task(task_name)
    layers = layers_of(make_model(task, 0), task.dense_layers)
    counts = exact_counts(uniform(layers), layers, density)
    mask, state = draw(layers, counts, 1), initial_state(task, 1)
    masked = {name: state.pop(name)[mask[name]] for name in mask}
    values = Values(b"", masked, state)
    down = pack_values(values, mask, codec="fp16")
    up = pack_values(values, mask, codec="int8")
    order = TaskOrder(
        id=ID,
        round_no=7,
        density=density,
        base=manifest_of(down),
        mask=MaskRecipe(seed=1, counts=counts, digest=bytes(range(32))),
        rule=Frozen(),
        training=Training(1, 32, 0.1),
        ttl_ms=60_000,
        shard=0,
        codec="int8",
        holdout=Holdout(0.2, 1),
        test=BaseTest(NAMES[:metrics], "classes 0.0"),
    )
    sums: dict[str, list[float]] = {name: [97, 120] for name in NAMES[:metrics]}
    ack = TaskAck(ID, BaseTested(ID, 120, sums))
    test = added("task", order, test=None) + added("task-ack", ack, tested=UNSET)
    return len(down) + len(up), test


@pytest.mark.parametrize(
    ("task", "density"),
    [("digits", 0.05), ("watch", 0.05), ("mnist", 0.05), ("mnist", 0.4)],
)
def test_a_test_costs_under_three_percent_of_a_round(task: str, density: float) -> None:
    """Of model and update alone: messages around them are not even counted."""
    whole, test = bytes_of(task, density)
    assert test < 0.03 * whole


def test_a_test_costs_the_same_of_any_model_and_little_more_of_each_metric() -> None:
    small, large = bytes_of("digits", 0.1), bytes_of("mnist", 0.4)
    assert large[0] > 20 * small[0]
    assert large[1] == small[1]
    assert bytes_of("digits", 0.1, metrics=3)[1] < small[1] + 2 * 25


def test_the_fields_of_tests_have_these_bytes() -> None:
    test = BaseTest(["accuracy"], "classes 0.0")
    assert pack(test) == (b"\x82\xa7metrics\x91\xa8accuracy\xa7measure\xabclasses 0.0")
    ack = TaskAck("8-b", BaseTested("7-a", 120, {"accuracy": [97, 120]}))
    assert pack(ack) == (
        b"\x83\xa4type\xa8task-ack\xa7task_id\xa38-b\xa6tested"
        b"\x83\xa2id\xa37-a\xa8examples\x78\xa4sums\x81\xa8accuracy\x92\x61\x78"
    )
    assert unpack(pack(ack), TaskAck) == ack
