"""Files of accepted updates: cut by what the ledger says, wherever a kill hit them."""

from __future__ import annotations

import hashlib
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.ledger import Ledger, TaskRow, open_ledger, read_ledger
from coordinator.rounds.state import TaskPhase
from edge_sdk.errors import StateError


def task(device: str, no: int) -> TaskRow:
    return TaskRow(f"{no}-{device}", no, device, 0.1, TaskPhase.ASSIGNED, b"order")


def opened(folder: Path, no: int, devices: list[str]) -> Ledger:
    ledger = open_ledger(folder)
    ledger.plan_round(no, goal=len(devices), quorum=1, rate=0.1, base="")
    ledger.issue_tasks(no, [task(d, no) for d in devices])
    return ledger


def accept(ledger: Ledger, device: str, content: bytes, no: int = 1) -> str:
    row = task(device, no)
    ledger.accept(row, content, examples=7, norm=1.0, metrics={})
    return hashlib.sha256(content).hexdigest()


def killed(ledger: Ledger) -> None:
    """What a kill does: connection and lock are gone, and nothing is taken back."""
    ledger._db.close()
    for one in ledger._updates._open.values():
        one.file.close()
    assert ledger._lock is not None
    ledger._lock.close()


def test_updates_of_a_round_share_a_file_and_a_sync(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    real = os.fsync

    def fsync(handle: int) -> None:
        synced.append(Path(f"/proc/self/fd/{handle}").readlink().name)
        real(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    ledger = opened(tmp_path, 1, ["a1", "b1", "c1", "d1"])
    assert synced == ["blobs"]  # the file's name, with the round's tasks
    synced.clear()
    names = [accept(ledger, device, device.encode() * 9) for device in ("a1", "b1")]
    assert synced == []
    ledger.settle()
    assert synced == ["round-00001.updates"]
    names.append(accept(ledger, "c1", b"c1" * 9))
    ledger.settle()
    assert synced == ["round-00001.updates"] * 2
    names.append(accept(ledger, "d1", b"d1" * 9))
    ledger.freeze(1)  # on the thread of files, and not again for the commit
    assert synced == ["round-00001.updates"] * 3
    ledger.close()
    reader = read_ledger(tmp_path)
    given = [device.encode() * 9 for device in ("a1", "b1", "c1", "d1")]
    assert [reader.blob(n) for n in names] == given
    assert [reader.place_of(n).start for n in names] == [0, 18, 36, 54]
    reader.close()


@given(
    promised=st.lists(st.binary(min_size=1, max_size=40), min_size=1, max_size=4),
    torn=st.binary(max_size=60),
    more=st.binary(min_size=1, max_size=40),
)
def test_whatever_lies_behind_what_was_committed_is_cut(
    tmp_path_factory: pytest.TempPathFactory,
    promised: list[bytes],
    torn: bytes,
    more: bytes,
) -> None:
    """The part of a group that reached the disk before a kill, of any bytes."""
    folder = tmp_path_factory.mktemp("run")
    devices = [f"d{i}" for i in range(len(promised))]
    ledger = opened(folder, 1, [*devices, "late"])
    names = [accept(ledger, d, c) for d, c in zip(devices, promised, strict=True)]
    ledger.settle()
    accept(ledger, "late", b"never promised")
    killed(ledger)
    path = folder / "blobs" / "round-00001.updates"
    end = sum(map(len, promised))
    path.write_bytes(path.read_bytes()[:end] + torn)
    again = open_ledger(folder)
    assert path.stat().st_size == end
    assert again.accepted_blob("1-late") is None
    names.append(accept(again, "late", more))
    again.settle()
    assert [again.blob(name) for name in names] == [*promised, more]
    again.close()


def test_a_part_that_was_taken_back_harms_no_other(tmp_path: Path) -> None:
    ledger = opened(tmp_path, 1, ["a1", "b1"])
    unserializable = {"loss": object()}
    with pytest.raises(TypeError):
        ledger.accept(
            task("b1", 1),
            b"of a part that fails",
            examples=1,
            norm=0.0,
            metrics=unserializable,  # type: ignore[arg-type]
        )
    one = accept(ledger, "a1", b"one")
    ledger.settle()
    again_open = read_ledger(tmp_path)
    assert again_open.blob(one) == b"one"
    again_open.close()
    ledger.close()
    again = open_ledger(tmp_path)
    two = accept(again, "b1", b"two")
    again.settle()
    assert [again.blob(name) for name in (one, two)] == [b"one", b"two"]
    again.close()


def test_a_group_that_breaks_leaves_nothing_of_it(tmp_path: Path) -> None:
    ledger = opened(tmp_path, 1, ["a1", "b1"])
    accept(ledger, "a1", b"one")
    ledger.settle()
    accept(ledger, "b1", b"two")
    ledger._commits.give_up()
    assert (tmp_path / "blobs" / "round-00001.updates").read_bytes() == b"one"
    ledger.close()


def test_files_of_rounds_long_done_go_and_a_later_round_s_stay(tmp_path: Path) -> None:
    ledger = opened(tmp_path, 1, ["a1"])
    accept(ledger, "a1", b"the first")
    ledger.settle()
    ledger.plan_round(2, goal=1, quorum=1, rate=0.1, base="")
    ledger.issue_tasks(2, [task("a1", 2)])
    second = accept(ledger, "a1", b"the second", 2)
    ledger.settle()
    ledger.forget_blobs(2)
    (left,) = (tmp_path / "blobs").iterdir()
    assert left.name == "round-00002.updates"
    assert ledger.blob(second) == b"the second"
    ledger.close()


def test_a_damaged_place_is_named_and_a_cut_file_too(tmp_path: Path) -> None:
    ledger = opened(tmp_path, 1, ["a1", "b1"])
    one, two = accept(ledger, "a1", b"one"), accept(ledger, "b1", b"two")
    ledger.settle()
    ledger.close()
    path = tmp_path / "blobs" / "round-00001.updates"
    path.write_bytes(b"onetw")  # shorter than the ledger says: nothing more is cut
    again = open_ledger(tmp_path)
    assert again.blob(one) == b"one"
    with pytest.raises(StateError, match=r"round-00001.updates from byte 3 on no long"):
        again.blob(two)
    path.write_bytes(b"0netwo")
    with pytest.raises(StateError, match="damaged"):
        again.blob(one)
    path.unlink()
    with pytest.raises(StateError, match="is gone"):
        again.blob(one)
    again.close()


def test_a_run_of_an_earlier_version_goes_on(tmp_path: Path) -> None:
    """Its updates are files of their own and its table has no places."""
    ledger = opened(tmp_path, 1, ["a1", "b1"])
    accept(ledger, "a1", b"one")
    ledger.settle()
    ledger.close()
    db = sqlite3.connect(tmp_path / "ledger.sqlite")
    db.execute("DROP INDEX updates_of_blob")
    db.execute("ALTER TABLE updates DROP COLUMN place")
    db.commit()
    db.close()
    one = hashlib.sha256(b"one").hexdigest()
    (tmp_path / "blobs" / "round-00001.updates").rename(tmp_path / "blobs" / one)
    reader = read_ledger(tmp_path)  # which changes nothing
    assert reader.blob(one) == b"one"
    reader.close()
    again = open_ledger(tmp_path)
    two = accept(again, "b1", b"two")
    again.settle()
    assert [again.blob(name) for name in (one, two)] == [b"one", b"two"]
    again.forget_blobs(2)
    assert list((tmp_path / "blobs").iterdir()) == []
    again.close()


FULL = """
import pathlib, resource, signal, sys
from coordinator.ledger.update_files import UpdateFiles
from edge_sdk.errors import StateError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
files = UpdateFiles(pathlib.Path(sys.argv[1]))
resource.setrlimit(resource.RLIMIT_FSIZE, (11, 11))
for content in (b"before", b"too much", b"after"):
    try:
        print(files.append(1, content, "a" * 64))
        files.settle()
        files.committed()
    except StateError as error:
        print(error)
files.close()
"""


def test_an_update_that_the_disk_has_no_room_for_leaves_the_others_whole(
    tmp_path: Path,
) -> None:
    run = [sys.executable, "-c", FULL, str(tmp_path)]
    done = subprocess.run(run, capture_output=True, check=True, text=True)
    before, refused, after = done.stdout.splitlines()
    assert (before, after) == ("0", "6")
    assert "blob aaaaaaaaaaaa could not be kept" in refused
    assert (tmp_path / "round-00001.updates").read_bytes() == b"beforeafter"


def test_all_updates_of_a_round_are_found_by_one_look(tmp_path: Path) -> None:
    ledger = opened(tmp_path, 1, ["a1", "b1", "c1"])
    contents = [b"one", b"other", b"third"]
    names = [
        accept(ledger, f"{device}1", content)
        for device, content in zip("abc", contents, strict=True)
    ]
    ledger.settle()
    asked: list[str] = []
    ledger._db.set_trace_callback(asked.append)
    for name, content in zip(names, contents, strict=True):
        assert ledger.blob(name) == content
    first = sum("FROM updates" in one for one in asked)
    ledger.forget_blobs(1)  # nothing is: whoever reads again looks again
    assert [ledger.blob(name) for name in names[::-1]] == contents[::-1]
    ledger._db.set_trace_callback(None)
    assert first == 2
    ledger.close()
