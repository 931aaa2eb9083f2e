"""The ledger on real SQLite, killed and filled up."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path

import pytest
from patience import patience, waited

from coordinator.ledger import Ledger, TaskRow, open_ledger, read_ledger
from coordinator.rounds.contribution_limits import shares
from coordinator.rounds.state import RoundPhase, TaskPhase
from edge_sdk.errors import CheckpointError, StateError


def task(device: str, no: int = 1) -> TaskRow:
    return TaskRow(f"{no}-{device}", no, device, 0.1, TaskPhase.ASSIGNED, b"order")


def with_round(ledger: Ledger, devices: list[str], no: int = 1) -> None:
    ledger.plan_round(no, goal=len(devices), quorum=1, rate=0.1, base="")
    ledger.issue_tasks(no, [task(d, no) for d in devices])


def accept(ledger: Ledger, device: str, content: bytes, no: int = 1) -> None:
    ledger.accept(task(device, no), content, examples=7, norm=1.0, metrics={"loss": 2})
    ledger.settle()


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return open_ledger(tmp_path / "run")


def test_a_round_told_once(ledger: Ledger) -> None:
    with_round(ledger, ["b1", "a1", "c1"])
    accept(ledger, "b1", b"two")
    accept(ledger, "a1", b"one")
    assert ledger.accepted_blob("1-a1") == hashlib.sha256(b"one").hexdigest()
    assert ledger.accepted_blob("1-c1") is None
    ledger.freeze(1)
    assert [row.device for row in ledger.frozen(1)] == ["a1", "b1"]
    assert [ledger.blob(row.blob) for row in ledger.frozen(1)] == [b"one", b"two"]
    assert [t.phase.value for t in ledger.tasks(1)] == [
        "accepted",
        "accepted",
        "expired",
    ]
    ledger.finish(1, model="round-00001.safetensors")
    (row,) = ledger.rounds()
    assert (row.phase, row.model) == (RoundPhase.DONE, "round-00001.safetensors")
    ledger.close()


def test_a_plan_is_durable_with_its_tasks(ledger: Ledger) -> None:
    """A coordinator that is killed between the two plans the round again."""
    ledger.plan_round(1, goal=1, quorum=1, rate=0.1, base="")
    with_others = read_ledger(ledger.folder)
    assert (ledger.unsettled, with_others.rounds()) == (True, [])
    ledger.issue_tasks(1, [task("a1")])
    assert not ledger.unsettled
    (row,) = with_others.rounds()
    assert (row.phase, len(with_others.tasks(1))) == (RoundPhase.RUN, 1)
    with_others.close()
    ledger.close()


def test_what_was_recorded_is_there_after_opening_again(ledger: Ledger) -> None:
    with_round(ledger, ["a1"])
    accept(ledger, "a1", b"one")
    ledger.put("counts", {"0.1": {"fc": 3}})
    ledger.see_device("a1", profile={"board": "pi"}, examples=5, version="0.1")
    ledger.assign("a1", 0.1, "fits")
    ledger.count_traffic(
        "a1",
        sent=10,
        received=20,
        rss_mib=30,
        engine="masked",
        online=True,
        phase="idle",
    )
    ledger.count_traffic(
        "a1", sent=5, received=25, rss_mib=1, engine="", online=False, phase="idle"
    )
    ledger.refuse("a1", 1, "rejected", "not finite")
    ledger.refuse("a1", 2, "rejected", "too long")
    ledger.refuse("a1", 2, "late", "its round is closed")
    ledger.record_score(1, 0.1, {"accuracy": 0.5})
    ledger.close()
    again = open_ledger(ledger.folder)
    assert again.get("counts") == {"0.1": {"fc": 3}}
    assert again.get("nothing") is None
    (device,) = again.devices()
    assert json.loads(device.profile) == {"board": "pi"}
    assert device.board == "pi"
    assert (device.sent, device.received, device.rss_mib) == (10, 25, 30)
    assert device.engine == "masked"
    assert device.refused == 2  # late is nobody's fault
    assert [(r.verdict, r.count, r.round, r.why) for r in again.refused()] == [
        ("late", 1, 2, "its round is closed"),
        ("rejected", 2, 2, "too long"),
    ]
    assert again.scores() == {1: {0.1: {"accuracy": 0.5}}}
    found = again.task("1-a1")
    assert found is not None
    assert found.phase is TaskPhase.ACCEPTED
    assert again.task("9-x") is None
    again.close()


def test_accepting_twice_is_once(ledger: Ledger) -> None:
    with_round(ledger, ["a1"])
    accept(ledger, "a1", b"one")
    accept(ledger, "a1", b"one")
    accept(ledger, "a1", b"another")  # the first one was promised
    ledger.freeze(1)
    (row,) = ledger.frozen(1)
    assert ledger.blob(row.blob) == b"one"
    ledger.close()


def test_what_comes_after_the_freeze_is_late(ledger: Ledger) -> None:
    with_round(ledger, ["a1", "b1"])
    accept(ledger, "a1", b"one")
    ledger.freeze(1)
    accept(ledger, "b1", b"late")
    assert [row.device for row in ledger.frozen(1)] == ["a1"]
    assert ledger.accepted_blob("1-b1") is None
    late = ledger.task("1-b1")
    assert late is not None
    assert late.phase is TaskPhase.EXPIRED
    ledger.freeze(1)
    ledger.finish(1, model="m")
    accept(ledger, "b1", b"late")
    assert [row.device for row in ledger.frozen(1)] == ["a1"]
    ledger.close()


def test_an_aborted_round_has_no_model_and_no_open_task(ledger: Ledger) -> None:
    with_round(ledger, ["a1", "b1"])
    accept(ledger, "a1", b"one")
    ledger.abort(1, "the deadline passed")
    (row,) = ledger.rounds()
    assert (row.phase, row.model, row.note) == (
        RoundPhase.ABORTED,
        None,
        "the deadline passed",
    )
    assert ledger.frozen(1) == []
    assert [t.phase.value for t in ledger.tasks(1)] == ["accepted", "expired"]
    ledger.close()


def test_a_round_has_its_place_among_those_that_give_a_model(ledger: Ledger) -> None:
    for no in range(6):
        ledger.plan_round(no, goal=1, quorum=1, rate=0.1, base="")
        if no in (2, 3):
            ledger.abort(no, "nobody came")
        else:
            ledger.finish(no, model=f"m{no}")
    assert [ledger.place(no) for no in range(7)] == [0, 1, 2, 2, 2, 3, 4]
    ledger.close()


def test_a_plan_that_issued_nothing_is_planned_again(ledger: Ledger) -> None:
    ledger.plan_round(1, goal=2, quorum=2, rate=0.1, base="old")
    ledger.plan_round(1, goal=3, quorum=3, rate=0.2, base="new")
    assert (ledger.rounds()[0].goal, ledger.rounds()[0].base) == (3, "new")
    ledger.issue_tasks(1, [task("a1")])
    ledger.plan_round(1, goal=9, quorum=9, rate=0.3, base="no")
    assert ledger.rounds()[0].goal == 3
    with pytest.raises(StateError, match="refused"):
        ledger.issue_tasks(1, [task("a1")])
    ledger.close()


def test_epochs_grow_over_restarts_and_over_runs(tmp_path: Path) -> None:
    """A device is deaf to an epoch below the newest it heard, also of another run."""
    first = open_ledger(tmp_path / "a")
    epochs = [first.next_epoch(), first.next_epoch()]
    first.close()
    again = open_ledger(tmp_path / "a")
    epochs.append(again.next_epoch())
    again.close()
    assert epochs == list(range(epochs[0], epochs[0] + 3))
    assert epochs[0] > 3_000_000  # minutes since 2020, not 1


def test_blobs_of_rounds_long_done_are_forgotten_but_shared_ones_kept(
    ledger: Ledger,
) -> None:
    with_round(ledger, ["a1", "b1"], 1)
    accept(ledger, "a1", b"old", 1)
    accept(ledger, "b1", b"both", 1)
    with_round(ledger, ["a1"], 2)
    accept(ledger, "a1", b"both", 2)
    ledger.forget_blobs(2)
    assert ledger.blob(hashlib.sha256(b"both").hexdigest()) == b"both"
    with pytest.raises(StateError, match="is gone"):
        ledger.blob(hashlib.sha256(b"old").hexdigest())
    ledger.close()


def test_many_receipts_share_one_commit_and_come_after_it(ledger: Ledger) -> None:
    devices = [f"d{i:02}" for i in range(40)]
    with_round(ledger, devices)
    said: list[str] = []
    commits: list[str] = []
    ledger._db.set_trace_callback(
        lambda sql: commits.append(sql) if sql == "COMMIT" else None
    )
    reader = read_ledger(ledger.folder)
    for device in devices:
        ledger.count_traffic(
            device,
            sent=1,
            received=1,
            rss_mib=1,
            engine="",
            online=True,
            phase="idle",
        )
        ledger.move_task(f"1-{device}", TaskPhase.OFFERED)
        content = device.encode()
        row = task(device)
        ledger.accept(row, content, examples=1, norm=0.0, metrics={})
        ledger.once_durable(lambda device=device: said.append(device))
    assert (ledger.unsettled, ledger.promised, said) == (True, 40, [])
    assert reader.accepted_blob("1-d00") is None
    ledger.settle()
    assert said == devices
    assert len(commits) == 1
    for device in devices:
        blob = reader.accepted_blob(f"1-{device}")
        assert blob is not None
        assert reader.blob(blob) == device.encode()
    ledger.once_durable(lambda: said.append("at once"))  # nothing is open
    assert said[-1] == "at once"
    reader.close()
    ledger.close()


def test_a_commit_waits_for_the_files_that_are_written_beside_it(
    ledger: Ledger,
) -> None:
    with_round(ledger, ["a1"])
    may, written = threading.Event(), list[str]()

    def write(name: str) -> None:
        may.wait()
        written.append(name)

    for name in ("first", "second"):
        ledger.beside(partial(write, name))
    ledger.move_task("1-a1", TaskPhase.ACKED)
    ledger.once_durable(lambda: written.append("receipt"))
    assert written == []
    may.set()
    ledger.settle()
    assert written == ["first", "second", "receipt"]
    ledger.close()


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "no space"),
        CheckpointError("no space", remedy="Make room."),
    ],
)
def test_a_file_that_cannot_be_written_takes_its_commit_back(
    ledger: Ledger, error: Exception
) -> None:
    with_round(ledger, ["a1"])

    def write() -> None:
        raise error

    told: list[str] = []
    ledger.beside(write)
    ledger.accept(task("a1"), b"one", examples=1, norm=0.0, metrics={})
    ledger.once_durable(lambda: told.append("receipt"))
    with pytest.raises(StateError, match="no space"):
        ledger.settle()
    with pytest.raises(StateError, match="no space"):
        ledger.move_task("1-a1", TaskPhase.ACKED)
    folder = ledger.folder
    ledger.close()
    assert told == []
    again = open_ledger(folder)
    assert again.accepted_blob("1-a1") is None
    again.close()


def test_the_freeze_takes_an_open_group_along(ledger: Ledger) -> None:
    with_round(ledger, ["a1", "b1"])
    said: list[str] = []
    ledger.accept(task("a1"), b"one", examples=1, norm=0.0, metrics={})
    ledger.once_durable(lambda: said.append("a1"))
    ledger.freeze(1)
    assert said == ["a1"]
    assert [row.device for row in ledger.frozen(1)] == ["a1"]
    ledger.close()


def test_what_is_too_long_or_too_heavy_is_cut_at_the_freeze_and_counted(
    ledger: Ledger,
) -> None:
    limit = partial(shares, clip=5.0, weight=10.0, influence=1.0)
    for no, boost in ((1, 1.0), (2, 100.0)):
        with_round(ledger, ["a1", "b1", "c1"], no)
        for device in ("a1", "b1", "c1"):
            factor = boost if device == "c1" else 1.0
            content = f"{device}{no}".encode()
            ledger.accept(
                task(device, no),
                content,
                examples=int(7 * factor),
                norm=2.0 * factor,
                metrics={},
            )
        ledger.freeze(no, limit)
        ledger.freeze(no, limit)  # a crash while closing: the same again
        ledger.finish(no, model="m")
    assert [(r.scale, r.weight) for r in ledger.frozen(1)] == [(1.0, 7)] * 3
    assert [(r.scale, r.weight) for r in ledger.frozen(2)] == [
        (1.0, 7),
        (1.0, 7),
        (0.05, 1.4),
    ]
    (row,) = ledger.refused()
    assert (row.device, row.verdict) == ("c1", "clipped")
    assert row.why == "its change is 200 long; 10 counts, it says 700 examples; 7 count"
    assert row.kind == "accepted, bounded"
    ledger.close()


def test_a_part_that_fails_leaves_the_rest_of_its_group(ledger: Ledger) -> None:
    with_round(ledger, ["a1"])
    ledger.accept(task("a1"), b"one", examples=1, norm=0.0, metrics={})
    with pytest.raises(TypeError):
        ledger.see_device("a1", profile={"x": object()}, examples=1, version="1")
    ledger.settle()
    assert ledger.accepted_blob("1-a1") is not None
    assert ledger.devices() == []
    ledger.close()


def test_an_older_coordinator_is_fenced_off_where_a_lock_does_not_hold(
    ledger: Ledger,
) -> None:
    """A network disk may not lock: the newer epoch wins, the older one stops."""
    ledger.next_epoch()
    with_round(ledger, ["a1", "b1"])
    said: list[str] = []
    (ledger.folder / "lock").unlink()
    newer = open_ledger(ledger.folder)
    newer.next_epoch()
    accept(newer, "a1", b"one")
    with pytest.raises(StateError, match="has taken over"):
        ledger.accept(task("b1"), b"two", examples=1, norm=0.0, metrics={})
    ledger.once_durable(lambda: said.append("b1"))
    with pytest.raises(StateError, match="has taken over"):
        ledger.settle()
    with pytest.raises(StateError, match="has taken over"):
        ledger.freeze(1)
    ledger.close()
    assert said == []
    assert newer.accepted_blob("1-b1") is None
    newer.close()


def test_what_a_killed_coordinator_had_not_made_durable_is_swept(
    ledger: Ledger,
) -> None:
    with_round(ledger, ["a1"])
    ledger.accept(task("a1"), b"half a group", examples=1, norm=0.0, metrics={})
    ledger._db.close()  # as the kernel does on a kill
    ledger._lock.close()  # type: ignore[union-attr]
    ledger._updates._open[1].file.close()
    assert ledger._updates.path(1).read_bytes() == b"half a group"
    again = open_ledger(ledger.folder)
    assert list((ledger.folder / "blobs").iterdir()) == []
    again.close()


def test_a_damaged_blob_is_not_handed_out(ledger: Ledger) -> None:
    name = ledger.store(b"content")
    (ledger.folder / "blobs" / name).write_bytes(b"c0ntent")
    with pytest.raises(StateError, match="damaged"):
        ledger.blob(name)
    ledger.close()


SECOND = """
import pathlib, sys
from coordinator.ledger import open_ledger
from edge_sdk.errors import StateError
try:
    open_ledger(pathlib.Path(sys.argv[1])).close()
except StateError as error:
    print(error, error.help)
"""


def test_a_second_coordinator_is_refused_until_the_first_is_gone(
    ledger: Ledger,
) -> None:
    run = [sys.executable, "-W", "error", "-c", SECOND, str(ledger.folder)]
    refused = subprocess.run(run, capture_output=True, check=True, text=True)
    assert "another coordinator runs" in refused.stdout
    assert refused.stderr == ""
    ledger.close()
    assert subprocess.run(run, capture_output=True, check=True).stdout == b""


def test_readers_see_whole_rounds_while_a_coordinator_writes(tmp_path: Path) -> None:
    """A # or ? in the folder's name is not part of SQLite's URI."""
    ledger = open_ledger(tmp_path / "run #1?x=%41")
    stop, seen, wrong = threading.Event(), [0], []

    def look() -> None:
        while not stop.is_set():
            reader = read_ledger(ledger.folder)
            rounds = reader.rounds()
            if any(
                r.phase is RoundPhase.RUN and not reader.tasks(r.no) for r in rounds
            ):
                wrong.append(rounds)
            seen[0] += 1
            reader.close()

    looker = threading.Thread(target=look)
    looker.start()
    try:
        assert waited(lambda: seen[0] > 0, 30)
        before = seen[0]
        for no in range(1, 30):
            with_round(ledger, ["a1", "b1"], no)
            accept(ledger, "a1", bytes([no]), no)
            ledger.freeze(no)
            ledger.finish(no, model="m")
        assert waited(lambda: seen[0] > before + 1, 30)  # the last is of after it all
    finally:
        stop.set()
        looker.join()
    assert wrong == []
    reader = read_ledger(ledger.folder)
    with pytest.raises(StateError, match="readonly"):
        reader.put("x", 1)
    assert len(reader.rounds()) == 29
    reader.close()
    ledger.close()


def test_what_is_no_run_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(StateError, match="holds no run yet"):
        read_ledger(tmp_path)
    (tmp_path / "metrics.jsonl").touch()
    with pytest.raises(StateError, match="holds a simulation, not the run of a"):
        read_ledger(tmp_path)
    (tmp_path / "ledger.sqlite").write_bytes(b"not a database" * 100)
    with pytest.raises(StateError, match="is no SQLite database"):
        read_ledger(tmp_path)
    for _ in range(2):  # the lock is given back
        with pytest.raises(StateError, match="is no SQLite database"):
            open_ledger(tmp_path)
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StateError, match="not usable"):
        open_ledger(tmp_path / "file")


def test_a_ledger_is_made_at_once_for_whoever_looks_on(tmp_path: Path) -> None:
    folders = [tmp_path / str(no) for no in range(40)]
    seen: set[str] = set()

    def look(folder: Path) -> bool:
        try:
            read_ledger(folder).close()
        except StateError as error:
            seen.add(str(error).replace(str(folder), "it"))
            return False
        return True

    def look_on() -> None:
        for folder in folders:
            while not look(folder):
                pass

    looking = threading.Thread(target=look_on)
    looking.start()
    for folder in folders:
        open_ledger(folder).close()
    looking.join(patience(60))
    assert seen <= {"it holds no run yet", "the ledger in it is being made"}
    (tmp_path / "begun").mkdir()
    sqlite3.connect(tmp_path / "begun" / "ledger.sqlite").close()
    with (tmp_path / "begun" / "lock").open("a+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # as the coordinator has that makes it
        with pytest.raises(StateError, match="is being made") as caught:
            read_ledger(tmp_path / "begun")
    assert "in a moment" in caught.value.help


def test_a_ledger_of_another_version_is_left_alone(ledger: Ledger) -> None:
    ledger.put("schema", 99)
    ledger.close()
    for opener in (open_ledger, read_ledger, open_ledger):
        with pytest.raises(StateError, match="schema 99, this version 5"):
            opener(ledger.folder)


ACCEPTS = """
import pathlib, sys
from coordinator.ledger import TaskRow, open_ledger
from coordinator.rounds.state import TaskPhase
ledger = open_ledger(pathlib.Path(sys.argv[1]))
no = max([r.no for r in ledger.rounds()], default=0) + 1
tasks = [TaskRow(f"{no}-d{i}", no, f"d{i}", 0.1, TaskPhase.ASSIGNED, b"")
         for i in range(2000)]
ledger.plan_round(no, goal=9, quorum=1, rate=0.1, base="")
ledger.issue_tasks(no, tasks)
print("ready", flush=True)
for i, task in enumerate(tasks):
    content = (task.id * 500).encode()
    ledger.accept(task, content, examples=1, norm=0.0, metrics={})
    ledger.once_durable(lambda said=task.id: print(said, flush=True))
    if i % 5 == 4:
        ledger.settle()
"""


def test_kill_dash_nine_among_accepts_leaves_every_promise_kept(tmp_path: Path) -> None:
    """What was said is in; every row's blob is there and is itself."""
    folder = tmp_path / "run"
    for turn in range(4):
        with subprocess.Popen(
            [sys.executable, "-c", ACCEPTS, str(folder)], stdout=subprocess.PIPE
        ) as writer:
            assert writer.stdout is not None
            for _ in range(3 + 7 * turn):
                writer.stdout.readline()
            os.kill(writer.pid, signal.SIGKILL)
            rest = writer.stdout.read().decode().split("\n")[:-1]
        ledger = open_ledger(folder)
        no = ledger.rounds()[-1].no
        said = [line for line in rest if "-" in line]
        for task_id in said:
            assert ledger.accepted_blob(task_id) is not None
        ledger.freeze(no)
        rows = ledger.frozen(no)
        assert len(rows) >= 2 + 7 * turn
        for row in rows:
            assert ledger.blob(row.blob) == (row.task * 500).encode()
            found = ledger.task(row.task)
            assert found is not None
            assert found.phase is TaskPhase.ACCEPTED
        ledger.finish(no, model="m")
        ledger.close()
    db = sqlite3.connect(folder / "ledger.sqlite")
    assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    db.close()


FULL = """
import pathlib, resource, signal, sys
from coordinator.ledger import TaskRow, open_ledger
from coordinator.rounds.state import TaskPhase
from edge_sdk.errors import StateError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
ledger = open_ledger(pathlib.Path(sys.argv[1]))
ledger.plan_round(1, goal=1, quorum=1, rate=0.1, base="")
task = TaskRow("1-a1", 1, "a1", 0.1, TaskPhase.ASSIGNED, b"")
ledger.issue_tasks(1, [task])
limit = (pathlib.Path(sys.argv[1]) / "ledger.sqlite-wal").stat().st_size
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
for content in (bytes(limit + 1), b"small", b"once more"):
    try:
        ledger.accept(task, content, examples=1, norm=0.0, metrics={})
        ledger.once_durable(lambda: print("accepted"))
        ledger.settle()
    except StateError as error:
        print(error)
assert ledger.accepted_blob("1-a1") is None
"""


def test_a_full_disk_promises_nothing(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path)],
        capture_output=True,
        check=True,
        text=True,
    )
    blob, row, later = done.stdout.splitlines()
    assert "could not be kept" in blob
    assert "ledger.sqlite lies on a disk that fails" in row
    assert later == row  # a group that broke is not gone on with
    assert [path.stat().st_size for path in (tmp_path / "blobs").iterdir()] == [0]
    ledger = open_ledger(tmp_path)
    assert ledger.accepted_blob("1-a1") is None
    found = ledger.task("1-a1")
    assert found is not None
    assert found.phase is TaskPhase.ASSIGNED
    ledger.close()
