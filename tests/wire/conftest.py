"""One of every message, for the tests of the wire."""

from __future__ import annotations

import msgspec
import pytest

from edge_sdk.wire.blob import manifest_of
from edge_sdk.wire.messages import (
    Announce,
    Cancel,
    Certificate,
    Data,
    DataDescribed,
    DataQuery,
    DataSummary,
    DescribeData,
    Evaluate,
    Evaluated,
    Fail,
    Hello,
    Install,
    MaskRecipe,
    Message,
    Need,
    NextKey,
    Offer,
    Receipt,
    Renew,
    Request,
    Revoked,
    Running,
    Status,
    TaskAck,
    TaskOrder,
    Training,
    Wait,
)
from edge_sdk.wire.named import Holdout
from edge_sdk.wire.rules import Frozen, WarmUp
from edge_sdk.wire.secure.messages import (
    SecureDelivery,
    SecureKeys,
    SecurePeer,
    SecurePeers,
    SecureReady,
    SecureReveal,
    SecureShares,
    SecureUnmask,
)

_BASE = manifest_of(bytes(range(256)), chunk_size=100)
_MASK = MaskRecipe(seed=3, counts={"fc.weight": 7}, digest=b"\x01" * 32)
_MOVED = MaskRecipe(0, {"fc.weight": 7}, b"\x01" * 32, manifest_of(b"structure"))


def _order(
    rule: Frozen | WarmUp, mask: MaskRecipe = _MASK, *, moves: bool = False
) -> TaskOrder:
    return TaskOrder(
        id="1-abc",
        round_no=1,
        density=0.1,
        base=_BASE,
        mask=mask,
        rule=rule,
        training=Training(epochs=1, batch_size=8, learning_rate=0.1),
        ttl_ms=60_000,
        shard=0,
        codec="fp32",
        moves=moves,
    )


@pytest.fixture(scope="session")
def messages() -> list[Message]:
    """One of every type; of orders one of each rule, and one whose mask moves."""
    return [
        Announce(state="running", task="digits", round_no=1, rounds=3, codecs=["fp32"]),
        Hello(
            phase="idle",
            task_id=None,
            version="0.1.0",
            task="digits",
            examples=100,
            profile={"board": "pi-4b", "ram_mib": 2048, "caps": {"cpu_share": 0.5}},
            codecs=["fp32"],
            engines=["masked"],
            free_disk_mib=9,
        ),
        Wait(ms=1000, why="others are uploading"),
        _order(Frozen()),
        _order(WarmUp(prune_rate=0.25)),
        _order(Frozen(), _MOVED, moves=True),
        msgspec.structs.replace(_order(Frozen()), chunk_size=1 << 18),
        TaskAck(task_id="1-abc"),
        Fail(task_id="1-abc", why="no memory"),
        Offer(
            task_id="1-abc",
            manifest=_BASE,
            mask_digest=b"\x02" * 32,
            codec="fp32",
            examples=64,
            norm=1.5,
            metrics={"loss": 0.25},
        ),
        Need(blob="1-abc", ranges=[(0, 2)], credit=16),
        Data(task_id="1-abc", index=1, chunk=b"\x00\xff"),
        Receipt(task_id="1-abc", verdict="accepted"),
        Cancel(task_id="1-abc", why="the round was aborted"),
        Status(online=True, phase="training", sent=10, received=20),
        Status(online=True, phase="training", celsius=51.5, progress=455),
        Status(online=True, phase="idle", battery=40, open_min=90),
        Status(online=True, phase="idle", data_error="data/pi-1: no file there"),
        Revoked(key=b"\x03" * 32, why="it was stolen"),
        Renew(why="its certificate ends soon"),
        Request(csr=b"\x30\x03"),
        Certificate(certificate=b"\x30\x04"),
        NextKey(number=1, key=b"\x04" * 32),
        Install(no=2, blob=_BASE, digest=b"\x05" * 32, key=b"\x04" * 32),
        Running(live=b"\x05" * 32, label="digits, round 3", no=2, verdict="live"),
        Running(live=None, label=""),
        Evaluate(
            id="3-abc",
            round_no=2,
            model=_BASE,
            mask=_MOVED,
            metrics=["accuracy", "loss"],
            holdout=Holdout(0.2, 7),
            measure="classes 0.0",
        ),
        Evaluated(
            id="3-abc",
            model=b"\x06" * 32,
            examples=50,
            sums={"accuracy": [40.0, 50.0], "loss": [12.25, 50.0]},
            failed={"auroc": "one class"},
        ),
        DescribeData("statistics", DataQuery([3, 1], 4, 5, -1.0, 1.0)),
        DataDescribed(
            "statistics",
            DataSummary(4, 8, [0.5, 0.0, 1.0], [2.0, 0.0, 3.5], [1, 3], [24]),
        ),
        SecureKeys("1-abc", b"\x07" * 32, b"\x08" * 32, b"\x09" * 32, b"\x0a" * 64),
        SecurePeers(
            "1-abc",
            2,
            [SecurePeer("pi-1", *(bytes([n]) * 32 for n in (11, 7, 8)), b"\x0a" * 64)],
        ),
        SecureShares("1-abc", [b"", b"\x0c" * 80]),
        SecureDelivery("1-abc", [b"", b"\x0d" * 80], b"\x01\x02"),
        SecureReady("1-abc"),
        SecureUnmask("1-abc", b"\x01\x02"),
        SecureReveal("1-abc", [b"\x0e" * 32, b"\x0f" * 32]),
        SecureReveal("1-abc", why="two different lists of survivors"),
    ]
