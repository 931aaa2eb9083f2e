from __future__ import annotations

import contextlib
import hashlib
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from functools import partial
from typing import Any

import msgpack
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_sdk.errors import LocalProtocolError, RemoteProtocolError
from edge_sdk.wire.blob import CHUNK_SIZE, LARGEST_CHUNK
from edge_sdk.wire.codec import (
    MAX_DATA,
    MAX_PACKET,
    Envelope,
    Header,
    decode,
    encode,
    pack,
    pack_large,
    tag_of,
    unpack,
)
from edge_sdk.wire.messages import (
    Data,
    Fail,
    Hello,
    Message,
    Need,
    Offer,
    Receipt,
    TaskAck,
    TaskOrder,
    Training,
)


def header(kind: str, **changes: Any) -> Header:
    base = Header(
        type=kind,
        federation="demo",
        source="pi-1",
        destination="coordinator",
        epoch=2,
        seq=3,
        boot=4,
        round_no=5,
    )
    return msgspec.structs.replace(base, **changes)


def packet_of(*parts: Any) -> bytes:
    packed: bytes = msgpack.packb(list(parts))
    return packed


def body_of(**fields: Any) -> bytes:
    packed: bytes = msgpack.packb(fields)
    return packed


# The bytes of a released envelope: an old device must understand a new coordinator.
# An old device must understand a new coordinator.
GOLDEN_PACKET = (
    "9401c45f88a474797065a87461736b2d61636baa66656465726174696f6ea464656d6fa6"
    "736f75726365a470692d31ab64657374696e6174696f6eab636f6f7264696e61746f72a5"
    "65706f636802a373657103a4626f6f7404a8726f756e645f6e6f05c41d82a474797065a8"
    "7461736b2d61636ba77461736b5f6964a5312d616263c40107"
)


def test_an_envelopes_bytes_are_golden() -> None:
    packet = encode(header("task-ack"), TaskAck("1-abc"), sign=lambda _: b"\x07")
    assert packet.hex() == GOLDEN_PACKET


# SHA-256 of each message's bytes, in the order of the fixture.
DIGESTS: dict[str, list[str]] = {
    "announce": ["ca70df43f1cdbb57"],
    "hello": ["1556e4050ac8b8d6"],
    "wait": ["d00f6f901eeb6898"],
    "task": [
        "caef0cccb97e7bf9",
        "2f3fd4e0df839b59",
        "663d0f5bac3ca319",
        "82e847d8d5ec2879",
    ],
    "task-ack": ["0b9caa4b35a32524"],
    "fail": ["dd02ec17c828f609"],
    "offer": ["38f083c9e1d710e6"],
    "need": ["86cd36d8d16fa416"],
    "data": ["46f00675eb5f196a"],
    "receipt": ["190f668d07329bd7"],
    "cancel": ["efceb1eb5b763782"],
    "status": [
        *("e49cd2179c5f5753", "248b2a227aad83e7", "470d1754f721dc4c"),
        "8f590912ec665c9b",
    ],
    "revoked": ["87af290c3118ab7e"],
    "renew": ["850fd93b7fd254d1"],
    "request": ["d856c2c72f9f98e7"],
    "certificate": ["95882c3e60cc6a3f"],
    "next-key": ["1eab8f97da0382d3"],
    "install": ["0f24126958c1c944"],
    "running": ["ae6eae99dd14c456", "a0ede9992a007a10"],
    "evaluate": ["77aa21a0c27f4970"],
    "evaluated": ["2f928a1f62de6ac4"],
    "describe": ["979fa39677b3e27a"],
    "described": ["2e3545dd8f7af8a4"],
    "secure-keys": ["7602ea34517609d9"],
    "secure-peers": ["40fe712dbfe10276"],
    "secure-shares": ["e8e36c2f6d0fbb28"],
    "secure-delivery": ["c4164c9623969a74"],
    "secure-ready": ["9eabb9ccd0bd3f72"],
    "secure-unmask": ["40dd6f734ea38bee"],
    "secure-reveal": ["89430a33b3c78197", "63d9217f394762b4"],
}


def test_every_messages_bytes_are_golden(messages: list[Message]) -> None:
    found: dict[str, list[str]] = {}
    for message in messages:
        digest = hashlib.sha256(pack(message)).hexdigest()[:16]
        found.setdefault(tag_of(message), []).append(digest)
    assert found == DIGESTS


def test_every_message_round_trips(messages: list[Message]) -> None:
    for message in messages:
        head = header(tag_of(message))
        assert decode(encode(head, message)) == Envelope(head, message)


def test_what_an_order_may_leave_out_costs_no_bytes_and_travels_when_it_is_set() -> (
    None
):
    plain = Training(epochs=1, batch_size=8, learning_rate=0.1)
    assert b"power" not in pack(plain)
    assert b"clip" not in pack(plain)
    more = msgspec.structs.replace(plain, power=1.5, clip=10.0)
    assert unpack(pack(more), Training) == more


def test_a_consent_is_one_line_and_costs_no_bytes_where_there_is_none(
    messages: list[Message],
) -> None:
    told = [m for m in messages if isinstance(m, Hello | Offer)]
    assert {type(m) for m in told} == {Hello, Offer}
    for message in told:
        assert b"consent" not in pack(message)
        more = msgspec.structs.replace(message, consent="research only, § 9")
        assert unpack(pack(more), type(message)) == more
        for bad in ("", "two\nlines", "a\x1b[2J", "x" * 201):
            with pytest.raises(RemoteProtocolError, match="consent"):
                unpack(
                    pack(msgspec.structs.replace(message, consent=bad)), type(message)
                )


def test_every_message_type_is_here(messages: list[Message]) -> None:
    assert {type(m) for m in messages} == set(Message.__args__)


def test_every_truncation_of_every_message_is_refused(messages: list[Message]) -> None:
    for message in messages:
        packet = encode(header(tag_of(message)), message)
        for end in range(len(packet)):
            with pytest.raises(RemoteProtocolError):
                decode(packet[:end])
        with pytest.raises(RemoteProtocolError):
            decode(packet + b"\xc0")


@given(st.data())
def test_a_flipped_byte_is_refused_or_decodes_to_a_message(data: st.DataObject) -> None:
    """Without a signature damage may pass; it never raises anything else."""
    packet = bytearray(encode(header("need"), Need("ab", [(0, 3), (7, 9)], 4)))
    packet[data.draw(st.integers(0, len(packet) - 1))] ^= data.draw(st.integers(1, 255))
    with contextlib.suppress(RemoteProtocolError):
        assert isinstance(decode(bytes(packet)), Envelope)


@given(st.binary(max_size=300))
def test_noise_is_refused(noise: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        decode(noise)


def test_unknown_fields_are_skipped() -> None:
    head = msgspec.to_builtins(header("task-ack")) | {"hops": 3}
    body = body_of(type="task-ack", task_id="1-abc", mood={"deep": [1, 2]})
    found = decode(packet_of(1, body_of(**head), body, b""))
    assert found == Envelope(header("task-ack"), TaskAck("1-abc"))


def test_fields_that_come_later_have_a_default() -> None:
    body = body_of(type="receipt", task_id="1-abc", verdict="late")
    found = decode(packet_of(1, pack(header("receipt")), body, b""))
    assert found.message == Receipt("1-abc", "late")


def test_an_unknown_type_is_refused_by_name() -> None:
    with pytest.raises(RemoteProtocolError, match="'teleport' is unknown"):
        decode(packet_of(1, pack(header("teleport")), body_of(type="teleport"), b""))


def test_a_body_of_another_type_than_its_header_is_refused() -> None:
    packet = packet_of(1, pack(header("task-ack")), pack(Receipt("1", "late")), b"")
    with pytest.raises(RemoteProtocolError, match=r"^no valid task-ack: "):
        decode(packet)


def test_we_never_send_a_header_of_another_type() -> None:
    with pytest.raises(LocalProtocolError, match="header says task-ack"):
        encode(header("task-ack"), Receipt("1", "late"))


@pytest.mark.parametrize(
    "parts",
    [
        (),
        (1,),
        (1, b"", b""),
        (1, b"", b"", b"", b""),
        (1, "head", b"", b""),
        ("1", b"", b"", b""),
        (1.0, b"", b"", b""),
        (1, b"", b"", None),
    ],
    ids=repr,
)
def test_what_is_no_envelope_is_refused(parts: tuple[Any, ...]) -> None:
    with pytest.raises(RemoteProtocolError):
        decode(packet_of(*parts))


def test_another_version_is_refused_by_number() -> None:
    with pytest.raises(RemoteProtocolError, match="version 2 is not 1"):
        decode(packet_of(2, pack(header("task-ack")), pack(TaskAck("1")), b""))


def test_an_oversize_packet_is_refused_both_ways() -> None:
    with pytest.raises(LocalProtocolError, match="passes the packet limit"):
        encode(header("data"), Data("1", 0, bytes(MAX_DATA)))
    with pytest.raises(RemoteProtocolError, match="passes the limit"):
        decode(bytes(MAX_DATA + 1))
    for size in (64 * 1024, LARGEST_CHUNK):
        whole = Data("1", 0, bytes(size))
        assert decode(encode(header("data"), whole)).message == whole
    beyond = packet_of(
        1, pack(header("data")), pack(Data("1", 0, bytes(LARGEST_CHUNK + 1))), b""
    )
    with pytest.raises(RemoteProtocolError, match="no valid data"):
        decode(beyond)


def test_only_a_chunk_may_be_larger_than_other_messages() -> None:
    """Devices hold no more: their part of a broker's packets is as it was."""
    ranges = [(1 << 60, 1 << 61)] * 256
    need = Need("1", ranges, 1)
    assert decode(encode(header("need"), need)).message == need
    large = Fail("1", "x" * MAX_PACKET)
    with pytest.raises(LocalProtocolError, match=r"fail message of .* packet limit"):
        encode(header("fail"), large)
    body = pack(Data("1", 0, bytes(MAX_PACKET)))
    with pytest.raises(RemoteProtocolError, match=r"'fail' message of .* the limit"):
        decode(packet_of(1, pack(header("fail")), body, b""))


def test_an_orders_chunk_size_costs_no_bytes_where_it_is_as_ever(
    messages: list[Message],
) -> None:
    """A device of 0.1.0 skips it, and an order of 0.1.0 has none."""
    order = next(m for m in messages if isinstance(m, TaskOrder))
    assert order.chunk_size == CHUNK_SIZE
    assert pack(order).count(b"chunk_size") == 1  # its base's
    for size in (CHUNK_SIZE + 1, LARGEST_CHUNK):
        more = msgspec.structs.replace(order, chunk_size=size)
        assert unpack(pack(more), TaskOrder) == more
    for bad in (0, CHUNK_SIZE - 1, LARGEST_CHUNK + 1, -1):
        with pytest.raises(RemoteProtocolError, match="chunk_size"):
            unpack(pack(msgspec.structs.replace(order, chunk_size=bad)), TaskOrder)


def test_what_goes_unasked_costs_no_bytes_where_nothing_does(
    messages: list[Message],
) -> None:
    """Of an order and of an offer: 0.1.0 skips both, and has neither."""
    order = next(m for m in messages if isinstance(m, TaskOrder))
    offer = next(m for m in messages if isinstance(m, Offer))
    assert b"unasked" not in pack(order)
    assert b"follows" not in pack(offer)
    more = msgspec.structs.replace(order, unasked=LARGEST_CHUNK)
    assert unpack(pack(more), TaskOrder) == more
    said = msgspec.structs.replace(offer, follows=True)
    assert unpack(pack(said), Offer) == said
    for bad in (-1, LARGEST_CHUNK + 1):
        with pytest.raises(RemoteProtocolError, match="unasked"):
            unpack(pack(msgspec.structs.replace(order, unasked=bad)), TaskOrder)


HOSTILE = {
    "empty maps": b"\x80" * 5_000_000,
    "huge map": b"\xdf\xff\xff\xff\xff" + b"\x80" * 90_000,
    "huge array": b"\xdd\xff\xff\xff\xff" + b"\x80" * 90_000,
    "wide arrays": b"\xdc\x10\x00" + (b"\xdc\x10\x00" + b"\x80" * 4096) * 20,
    "huge bin": b"\xc6\xff\xff\xff\xff" + b"\x00" * 90_000,
    "huge str": b"\xdb\xff\xff\xff\xff" + b"a" * 90_000,
    "ext": b"\x94\x01" + b"\xc7\x04\x01abcd" * 3,
    "timestamp": b"\x94\x01" + b"\xd6\xff\x00\x00\x00\x01" * 3,
    "deep array": b"\x91" * 90_000 + b"\xc0",
    "deep map": b"\x81\xa1a" * 30_000 + b"\xc0",
    "map with map keys": b"\x81\x80\x80",
    "broken utf-8": b"\x94\x01\xa2\xff\xfe\xc4\x00\xc4\x00",
}


def refused_within(limit: int, refuse: Callable[[], object]) -> bool:
    """Whether it raises RemoteProtocolError and allocates at most `limit` bytes."""
    tracemalloc.start()
    try:
        with pytest.raises(RemoteProtocolError):
            refuse()
        return tracemalloc.get_traced_memory()[1] <= limit
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_packets_are_refused_in_little_memory(name: str) -> None:
    packet = HOSTILE[name]
    assert refused_within(4 << 20, lambda: decode(packet))


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_heads_and_bodies_are_refused_too(name: str) -> None:
    hostile = HOSTILE[name][:90_000]
    for parts in ((hostile, b""), (pack(header("hello")), hostile)):
        packet = packet_of(1, *parts, b"")
        assert refused_within(8 << 20, partial(decode, packet))


@pytest.mark.parametrize("kind", [Hello, TaskOrder, Offer], ids=lambda k: k.__name__)
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_payloads_are_refused_in_little_memory(name: str, kind: type) -> None:
    hostile = HOSTILE[name]
    assert refused_within(1 << 20, lambda: unpack(hostile, kind))


def test_one_mebibyte_of_nested_empty_maps_is_not_built() -> None:
    """Each container is small; decoded first and checked then it took 73 MiB."""
    hostile = b"\xdc\x01\x00" + (b"\xdc\x10\x00" + b"\x80" * 4096) * 256
    payload = b"\x81\xa4more" + hostile
    assert refused_within(1 << 20, lambda: unpack(payload, TaskOrder))


def test_the_signature_covers_header_and_body_and_comes_first() -> None:
    seen: list[tuple[Header, bytes, bytes]] = []

    def verify(head: Header, signed: bytes, signature: bytes) -> bool:
        seen.append((head, signed, signature))
        return signature == hashlib.sha256(signed).digest()

    def sign(signed: bytes) -> bytes:
        return hashlib.sha256(signed).digest()

    packet = encode(header("task-ack"), TaskAck("1-abc"), sign=sign)
    assert decode(packet, verify=verify).message == TaskAck("1-abc")
    _, head, body, signature = msgpack.unpackb(packet)
    assert seen[0][1] == head + hashlib.sha256(body).digest()
    for forged in (
        packet_of(1, pack(header("task-ack", epoch=9)), body, signature),
        packet_of(1, head, pack(TaskAck("2-xyz")), signature),
        packet_of(1, head, b"\xc1 not decoded", signature),
        packet_of(1, head, body, b""),
    ):
        with pytest.raises(RemoteProtocolError, match="signature of pi-1"):
            decode(forged, verify=verify)


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        (Training, {"epochs": 0, "batch_size": 1, "learning_rate": 0.1}),
        (Training, {"epochs": 1, "batch_size": 1, "learning_rate": -0.1}),
        (Training, {"epochs": 1, "batch_size": 1, "learning_rate": float("nan")}),
        (Training, {"epochs": True, "batch_size": 1, "learning_rate": 0.1}),
        (Training, {"epochs": 1, "batch_size": 1, "learning_rate": 0.1, "power": 1}),
        (Training, {"epochs": 1, "batch_size": 1, "learning_rate": 0.1, "clip": 0}),
        (Need, {"type": "need", "blob": "a", "ranges": [[0, -1]], "credit": 1}),
        (Need, {"type": "need", "blob": "a", "ranges": [[0]], "credit": 1}),
        (Need, {"type": "need", "blob": "a", "ranges": [], "credit": 0}),
        (Need, {"type": "need", "blob": "a" * 65, "ranges": [], "credit": 1}),
        (Receipt, {"type": "receipt", "task_id": "1", "verdict": "maybe"}),
        (Receipt, {"type": "receipt", "task_id": "", "verdict": "late"}),
        (Receipt, {"type": "receipt", "task_id": "1"}),
        (TaskAck, {"type": "task-ack", "task_id": 7}),
    ],
)
def test_decoding_is_validation(kind: type, fields: dict[str, Any]) -> None:
    name = fields.get("type", kind.__name__.lower())
    with pytest.raises(RemoteProtocolError, match=f"^no valid {name}: "):
        unpack(body_of(**fields), kind)


@pytest.mark.parametrize("size", [0, 1, 300, 70_000, 2_000_000])
def test_a_large_value_is_packed_as_any_other(size: int) -> None:
    one = Data(task_id="1-a", index=0, chunk=bytes(size))
    assert pack_large(one) == pack(one)


def test_packing_that_does_not_fit_into_memory_is_an_error_and_no_crash() -> None:
    """40 MB under a limit that leaves 20: the process lives and may try less."""
    done = subprocess.run(
        [sys.executable, "-c", PACKS_TOO_MUCH],
        check=False,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (0, "refused\n"), done.stderr


PACKS_TOO_MUCH = """
import resource
from edge_sdk.wire.codec import pack_large
from edge_sdk.wire.messages import Data
one = Data(task_id="1-a", index=0, chunk=bytes(40_000_000))
mapped = resource.getpagesize() * int(open("/proc/self/statm").read().split()[5])
resource.setrlimit(resource.RLIMIT_DATA, (mapped + 20_000_000,) * 2)
try:
    pack_large(one)
except MemoryError:
    print("refused")
"""
