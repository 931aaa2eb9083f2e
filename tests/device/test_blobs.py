from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_sdk.errors import RemoteProtocolError, StateError
from edge_sdk.storage.blobs import BlobFolder
from edge_sdk.wire.blob import blob_id, chunk_of, manifest_of

CONTENT = bytes(range(250))
MANIFEST = manifest_of(CONTENT, 100)


def fill(folder: BlobFolder, content: bytes, chunk: int = 100) -> Path:
    manifest = manifest_of(content, chunk)
    assembly = folder.open(manifest)
    for index in range(len(manifest.chunks)):
        assembly.add(index, chunk_of(content, manifest, index))
    return folder._folder / blob_id(manifest)


@given(st.permutations(range(3)), st.integers(0, 3))
def test_what_was_there_is_there_after_a_restart(
    tmp_path_factory: pytest.TempPathFactory, order: list[int], cut: int
) -> None:
    tmp_path = tmp_path_factory.mktemp("blobs")
    first = BlobFolder(tmp_path).open(MANIFEST)
    for index in order[:cut]:
        assert first.add(index, chunk_of(CONTENT, MANIFEST, index))
    second = BlobFolder(tmp_path).open(MANIFEST)
    assert second.received == cut
    for index in order:
        new = second.add(index, chunk_of(CONTENT, MANIFEST, index))
        assert new is (index in order[cut:])
    assert second.content() == CONTENT


def test_other_chunk_sizes_find_what_is_there(tmp_path: Path) -> None:
    fill(BlobFolder(tmp_path), CONTENT)
    assert BlobFolder(tmp_path).open(manifest_of(CONTENT, 64)).complete


def test_what_the_disk_lost_or_damaged_is_missing_again(tmp_path: Path) -> None:
    path = fill(BlobFolder(tmp_path), CONTENT)
    damaged = bytearray(CONTENT)
    damaged[150] ^= 1
    path.write_bytes(damaged)
    assembly = BlobFolder(tmp_path).open(MANIFEST)
    assert assembly.missing() == [(1, 2)]
    assert not assembly.complete
    path.write_bytes(CONTENT[:120])
    assert BlobFolder(tmp_path).open(MANIFEST).missing() == [(1, 3)]
    whole = BlobFolder(tmp_path).open(MANIFEST)
    for index in (1, 2):
        whole.add(index, chunk_of(CONTENT, MANIFEST, index))
    path.unlink()
    with pytest.raises(RemoteProtocolError, match="does not have its digest"):
        whole.content()


def test_the_one_unused_longest_goes_and_what_is_wanted_stays(tmp_path: Path) -> None:
    folder = BlobFolder(tmp_path, max_bytes=700)
    old, mid = (fill(folder, bytes([n]) * 250) for n in (1, 2))
    for age, path in enumerate((mid, old)):
        os.utime(path, (100 - age, 100 - age))
    folder.open(manifest_of(bytes([1]) * 250, 100))  # touched: it is the newest now
    new = fill(folder, bytes([3]) * 250)
    assert (old.exists(), mid.exists(), new.exists()) == (True, False, True)
    os.utime(old, (1, 1))
    wanted = manifest_of(bytes([1]) * 250, 100)
    folder.open(manifest_of(bytes([4]) * 650, 100), keep=[wanted])
    assert old.exists()
    assert not new.exists()


def test_a_folder_that_cannot_be_made_is_an_error_with_a_remedy(tmp_path: Path) -> None:
    (tmp_path / "blobs").write_bytes(b"")
    with pytest.raises(StateError, match="cannot be kept") as caught:
        BlobFolder(tmp_path / "blobs").open(MANIFEST)
    assert "room" in caught.value.help
