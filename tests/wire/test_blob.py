from __future__ import annotations

import hashlib
import itertools

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_sdk.errors import LocalProtocolError, RemoteProtocolError
from edge_sdk.wire.blob import (
    CHUNK_SIZE,
    Assembly,
    blob_id,
    chunk_of,
    manifest_of,
    positions,
)

blobs = st.binary(min_size=1, max_size=400)
sizes = st.integers(1, 64)


@given(blobs, sizes, st.randoms(use_true_random=False))
def test_chunks_in_any_order_make_the_blob_again(
    content: bytes, size: int, rng: object
) -> None:
    manifest = manifest_of(content, size)
    assembly = Assembly(manifest)
    order = list(range(len(manifest.chunks))) * 2
    rng.shuffle(order)  # type: ignore[attr-defined]
    for index in order:
        held = assembly.received
        fresh = assembly.add(index, chunk_of(content, manifest, index))
        assert assembly.received == held + fresh
    assert assembly.complete
    assert assembly.missing() == []
    assert assembly.content() == content
    assert blob_id(manifest) == hashlib.sha256(content).hexdigest()


@given(blobs, sizes, st.data())
def test_what_is_missing_is_exactly_what_did_not_come(
    content: bytes, size: int, data: st.DataObject
) -> None:
    manifest = manifest_of(content, size)
    count = len(manifest.chunks)
    came = data.draw(st.sets(st.integers(0, count - 1)))
    assembly = Assembly(manifest)
    for index in came:
        assembly.add(index, chunk_of(content, manifest, index))
    missing = assembly.missing(limit=count + 1)
    assert set(positions(missing, count)) == set(range(count)) - came
    assert all(one[1] < two[0] for one, two in itertools.pairwise(missing))
    assert assembly.missing(limit=1) == missing[:1]


@given(blobs, sizes, st.data())
def test_a_damaged_cut_or_foreign_chunk_is_refused(
    content: bytes, size: int, data: st.DataObject
) -> None:
    manifest = manifest_of(content, size)
    assembly = Assembly(manifest)
    index = data.draw(st.integers(0, len(manifest.chunks) - 1))
    chunk = bytearray(chunk_of(content, manifest, index))
    chunk[data.draw(st.integers(0, len(chunk) - 1))] ^= 1
    for wrong in (bytes(chunk), bytes(chunk[:-1]), bytes(chunk) + b"x"):
        with pytest.raises(RemoteProtocolError):
            assembly.add(index, wrong)
    with pytest.raises(RemoteProtocolError, match="beyond the blob's end"):
        assembly.add(len(manifest.chunks), b"")
    assert assembly.received == 0
    with pytest.raises(RemoteProtocolError, match="not complete"):
        assembly.content()


def test_a_manifest_that_understates_its_chunks_does_not_pass() -> None:
    """Sizes are promised before memory is given to them."""
    big = bytes(1000)
    lie = msgspec.structs.replace(
        manifest_of(big, 1000), size=10, chunk_size=10, sha256=bytes(32)
    )
    with pytest.raises(RemoteProtocolError, match="its size"):
        Assembly(lie).add(0, big)


def test_a_manifest_with_a_wrong_number_of_chunks_is_refused() -> None:
    lie = msgspec.structs.replace(manifest_of(bytes(100), 10), size=101)
    with pytest.raises(RemoteProtocolError, match="10 chunks instead of 11"):
        Assembly(lie)


def test_a_whole_of_another_digest_is_refused() -> None:
    lie = msgspec.structs.replace(manifest_of(b"abc"), sha256=bytes(32))
    assembly = Assembly(lie)
    assembly.add(0, b"abc")
    with pytest.raises(RemoteProtocolError, match="does not have its digest"):
        assembly.content()
    together = Assembly(lie, whole=True)
    for _ in range(2):  # nothing of it is believed
        with pytest.raises(RemoteProtocolError, match="does not have its digest"):
            together.add(0, b"abc")
        assert together.received == 0


def test_a_blob_has_one_to_2048_chunks() -> None:
    assert len(manifest_of(bytes(2048), 1).chunks) == 2048
    for content in (b"", bytes(2049)):
        with pytest.raises(LocalProtocolError, match="1 to 2048 can be sent"):
            manifest_of(content, 1)
    assert CHUNK_SIZE == 65536


def test_overlapping_ranges_name_each_chunk_once() -> None:
    ranges = [(0, 1 << 40)] * 100
    assert list(positions(ranges, 5)) == [0, 1, 2, 3, 4]
    assert list(positions([(3, 2), (7, 9)], 5)) == []
