"""Bytes of the parts that stay apart, and of orders that name them."""

from __future__ import annotations

import hashlib

import numpy as np

from edge_sdk.wire.blob import manifest_of
from edge_sdk.wire.codec import pack, unpack
from edge_sdk.wire.messages import MaskRecipe, TaskOrder, Training
from edge_sdk.wire.parts import Apart, pack_apart, pack_own, unpack_apart, unpack_own
from edge_sdk.wire.rules import Frozen

APART = Apart(
    frozen={"norm.count": np.arange(2), "a": np.array([0.5, -1.0], np.float32)},
    personal={"head.weight": np.array([[1.0, 2.0]], np.float32)},
)
PLAIN = TaskOrder(
    id="1-a",
    round_no=1,
    density=0.5,
    base=manifest_of(b"base"),
    mask=MaskRecipe(1, {"w": 2}, bytes(32)),
    rule=Frozen(),
    training=Training(epochs=1, batch_size=8, learning_rate=0.1),
    ttl_ms=1000,
    shard=0,
    codec="fp32",
)


def sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def test_the_bytes_of_what_stays_apart_are_as_first_released() -> None:
    blob, own = pack_apart(APART), pack_own(APART.personal, b"memory")
    assert [sha(blob), sha(own)] == GOLDEN_BLOBS
    found = unpack_apart(blob)
    for ours, theirs in (
        (APART.frozen, found.frozen),
        (APART.personal, found.personal),
    ):
        assert set(ours) == set(theirs)
        assert all((ours[n] == theirs[n]).all() for n in ours)
    personal, memory = unpack_own(own)
    assert memory == b"memory"
    assert (personal["head.weight"] == APART.personal["head.weight"]).all()


def test_an_order_names_them_last_and_one_without_has_the_bytes_it_had() -> None:
    parts = manifest_of(pack_apart(APART))
    fields = {n: getattr(PLAIN, n) for n in PLAIN.__struct_fields__}
    named = TaskOrder(**{**fields, "parts": parts, "after": "0-b"})
    assert [sha(pack(PLAIN)), sha(pack(named))] == GOLDEN_ORDERS
    assert unpack(pack(named), TaskOrder) == named
    older = unpack(pack(PLAIN), TaskOrder)
    assert (older.parts, older.after) == (None, "")


GOLDEN_BLOBS = ["21581661d11fba02", "0323886bb1687e12"]
GOLDEN_ORDERS = ["8621160ca814bf83", "e839446928b3fb9e"]
