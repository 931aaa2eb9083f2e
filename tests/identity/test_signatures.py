from __future__ import annotations

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from edge_sdk.errors import RemoteProtocolError
from edge_sdk.identity.signatures import CONTEXT, WINDOW, Recent, signer, verifier
from edge_sdk.wire.codec import Header, decode, encode
from edge_sdk.wire.messages import TaskAck

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
OTHER = Ed25519PrivateKey.from_private_bytes(bytes(32))
HEADER = Header("task-ack", "demo", "pi-1", "coordinator", epoch=2, seq=3, boot=4)


def public(key: Ed25519PrivateKey) -> bytes:
    return key.public_key().public_bytes_raw()


def known(*keys: Ed25519PrivateKey) -> dict[str, list[bytes]]:
    return {"pi-1": [public(key) for key in keys]}


def signed(key: Ed25519PrivateKey, header: Header = HEADER) -> bytes:
    return encode(header, TaskAck("1-a"), sign=signer(lambda: key))


def accepted(packet: bytes, keys: dict[str, list[bytes]]) -> bool:
    try:
        decode(packet, verify=verifier(lambda source: keys.get(source, [])))
    except RemoteProtocolError:
        return False
    return True


def test_a_signature_is_of_its_key_and_nobody_elses() -> None:
    assert accepted(signed(KEY), known(KEY))
    assert accepted(signed(KEY), known(OTHER, KEY))  # while a key is being renewed
    assert not accepted(signed(OTHER), known(KEY))
    assert not accepted(signed(KEY), {})  # a stranger
    assert not accepted(signed(KEY), known())  # revoked: no key is accepted
    assert not accepted(encode(HEADER, TaskAck("1-a")), known(KEY))  # no signature
    assert not accepted(signed(KEY), {"pi-1": [b"no key"]})


@pytest.mark.parametrize(
    "change",
    [
        {"federation": "other"},
        {"source": "pi-2"},
        {"destination": "pi-2"},
        {"epoch": 3},
        {"seq": 4},
        {"boot": 5},
        {"round_no": 1},
        {"type": "fail"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_every_word_of_the_header_is_signed(change: dict[str, object]) -> None:
    """So a message for one device, federation or epoch is none for another."""
    import msgpack

    changed = msgspec.structs.replace(HEADER, **change)
    version, _, body, signature = msgpack.unpackb(signed(KEY))
    head = msgpack.packb(msgspec.to_builtins(changed))
    forged = msgpack.packb([version, head, body, signature])
    keys = known(KEY) | {"pi-2": [public(KEY)]}
    assert not accepted(forged, keys)


def test_a_signature_made_elsewhere_is_none_here() -> None:
    """The same key proves itself in TLS; there nothing begins with our context."""
    bare = encode(HEADER, TaskAck("1-a"), sign=KEY.sign)
    assert not accepted(bare, known(KEY))
    assert CONTEXT.startswith(b"flash-edge")


@given(st.integers(0, 1 << 30))
def test_a_flipped_bit_anywhere_is_refused(where: int) -> None:
    packet = bytearray(signed(KEY))
    packet[where // 8 % len(packet)] ^= 1 << where % 8
    assert not accepted(bytes(packet), known(KEY))


@given(st.lists(st.integers(0, 3 * WINDOW), max_size=60))
def test_each_sequence_number_is_taken_once(numbers: list[int]) -> None:
    """In any order; one that is too far behind is never taken."""
    recent, taken, top = Recent(), set[int](), 0
    for number in numbers:
        new = recent.take(msgspec.structs.replace(HEADER, seq=number + 1))
        assert new == (number + 1 not in taken and number + 1 > top - WINDOW)
        if new:
            taken.add(number + 1)
            top = max(top, number + 1)


def test_a_life_that_ended_does_not_come_back() -> None:
    recent = Recent()
    lives = [msgspec.structs.replace(HEADER, boot=boot) for boot in (1, 2)]
    assert recent.take(lives[0])
    assert recent.take(lives[1])
    assert not recent.take(msgspec.structs.replace(lives[0], seq=99))
    assert recent.take(msgspec.structs.replace(lives[1], seq=99))
    assert recent.take(msgspec.structs.replace(HEADER, source="pi-2", boot=1))


def test_memory_does_not_grow_with_the_numbers() -> None:
    recent = Recent()
    for seq in (1, 1 << 62, (1 << 63) - 1):
        assert recent.take(msgspec.structs.replace(HEADER, seq=seq))
    assert recent._windows["pi-1"].seen.bit_length() <= WINDOW
    assert not recent.take(msgspec.structs.replace(HEADER, seq=-(1 << 63)))
