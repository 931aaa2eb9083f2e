from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from edge_sdk.errors import StateError
from edge_sdk.storage.journal import Journal, JournalRecord
from edge_sdk.wire.messages import Offer, TaskOrder

Orders = Callable[..., TaskOrder]
Offers = Callable[..., Offer]


def test_what_is_kept_is_there_at_the_next_start(
    tmp_path: Path, order: Orders, offer: Offers
) -> None:
    journal = Journal(tmp_path / "state")
    assert journal.record == JournalRecord()
    record = JournalRecord(3, order("1-a"), offer("1-a"), 10, 20, [("0-z", "accepted")])
    journal.stash(b"update")
    journal.keep(record)
    journal.close()
    again = Journal(tmp_path / "state")
    assert again.record == record
    assert again.payload() == b"update"
    again.close()


def test_a_journals_bytes_are_golden(tmp_path: Path) -> None:
    """A device that is updated reads what its older version wrote."""
    journal = Journal(tmp_path)
    journal.keep(
        JournalRecord(7, None, None, 1, 2, [("1-a", "late")], [("1-a", bytes(32))])
    )
    written = (tmp_path / "journal.msgpack").read_bytes()
    journal.close()
    without = bytes.fromhex(
        "a565706f636807a56f72646572c0a56f66666572c0a473656e7401a87265636569766564"
        "02a866696e69736865649192a3312d61a46c617465"
    )
    packed = bytes.fromhex("a67061636b65649192a3312d61c420") + bytes(32)
    day = bytes.fromhex("a3646179a0aa6265666f72655f64617900")
    assert written == b"\x89" + without + packed + day
    (tmp_path / "journal.msgpack").write_bytes(b"\x86" + without)
    again = Journal(tmp_path)
    assert again.record == JournalRecord(7, None, None, 1, 2, [("1-a", "late")])
    again.close()


def test_what_a_kill_left_half_written_is_gone_at_the_next_start(
    tmp_path: Path, order: Orders, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each power cut would leave a file as large as a device's personal weights."""
    state = tmp_path / "state"
    journal = Journal(state)
    journal.memory.keep(order("1-a"), b"personal")

    class PowerCutError(BaseException):
        pass

    def cut(*_: object) -> None:
        raise PowerCutError

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", cut)
        for write in (
            lambda: journal.stash(b"update"),
            lambda: journal.keep(JournalRecord(4)),
            lambda: journal.memory.keep(order("2-a"), b"newer"),
        ):
            with pytest.raises(PowerCutError):
                write()
    journal.close()
    assert len([*state.rglob(".*.tmp")]) == 3
    again = Journal(state)
    assert [*state.rglob(".*.tmp")] == []
    assert again.record == JournalRecord()
    assert again.memory.of("1-a") == b"personal"
    again.close()


def test_the_outbox_is_emptied_with_the_offer_and_not_before(
    tmp_path: Path, order: Orders, offer: Offers
) -> None:
    journal = Journal(tmp_path)
    journal.keep(JournalRecord(1, order("1-a")))
    journal.stash(b"update")
    journal.keep(JournalRecord(1, order("1-a"), offer("1-a")))
    journal.keep(JournalRecord(2, order("1-a"), offer("1-a")))
    assert journal.payload() == b"update"
    journal.keep(JournalRecord(2))
    with pytest.raises(StateError, match=r"outbox .* is gone"):
        journal.payload()
    journal.close()


def test_a_second_process_is_refused_until_the_first_is_gone(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    code = (
        "import sys, pathlib\n"
        "from edge_sdk.storage.journal import Journal\n"
        "from edge_sdk.errors import StateError\n"
        "try:\n"
        "    Journal(pathlib.Path(sys.argv[1])).close()\n"
        "except StateError as error:\n"
        "    print(error, error.help)\n"
    )
    run = [sys.executable, "-W", "error", "-c", code, str(tmp_path)]
    refused = subprocess.run(run, capture_output=True, check=True, text=True)
    assert "another flash-edge process" in refused.stdout
    assert "Stop it" in refused.stdout
    assert refused.stderr == ""
    journal.close()
    assert subprocess.run(run, capture_output=True, check=True).stdout == b""


@pytest.mark.parametrize("damage", ["cut", "noise", "empty", "folder"])
def test_a_damaged_journal_is_refused_and_left_alone(
    tmp_path: Path, order: Orders, damage: str
) -> None:
    journal = Journal(tmp_path)
    journal.keep(JournalRecord(1, order("1-a")))
    journal.close()
    path = tmp_path / "journal.msgpack"
    content = path.read_bytes()
    if damage == "folder":
        path.unlink()
        path.mkdir()
    else:
        damaged = {"cut": content[:-3], "noise": b"\xc1" * 9, "empty": b""}
        path.write_bytes(damaged[damage])
    for _ in range(2):  # the lock is given back each time
        with pytest.raises(StateError, match="cannot be read") as caught:
            Journal(tmp_path)
        assert "Move the state folder away" in caught.value.help
    assert path.exists()


def test_a_state_folder_that_cannot_be_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StateError, match="not usable"):
        Journal(tmp_path / "file")


WRITER = """
import pathlib, sys
from edge_sdk.storage.journal import Journal, JournalRecord
journal = Journal(pathlib.Path(sys.argv[1]))
for number in range(journal.record.epoch + 1, 1_000_000):
    journal.stash(bytes([number % 251]) * 3000)
    journal.keep(JournalRecord(epoch=number, sent=2 * number))
    print(number, flush=True)
"""


def test_kill_dash_nine_at_any_moment_keeps_what_was_kept(tmp_path: Path) -> None:
    """Whatever was said to be kept is there, whole; never less, never a part."""
    said = 0
    for turn in range(5):
        with subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE
        ) as writer:
            assert writer.stdout is not None
            for _ in range(turn + 1):
                writer.stdout.readline()
            time.sleep(0.003 * turn)  # anywhere between two lines
            os.kill(writer.pid, signal.SIGKILL)
            rest = writer.stdout.read().split(b"\n")
        said = max([said, *(int(line) for line in rest[:-1])])
        journal = Journal(tmp_path)
        assert said <= journal.record.epoch
        assert journal.record.sent == 2 * journal.record.epoch
        said = journal.record.epoch
        journal.close()
    assert said > 5


FULL = """
import pathlib, resource, signal, sys
from edge_sdk.errors import StateError
from edge_sdk.storage.journal import Journal, JournalRecord
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
journal = Journal(pathlib.Path(sys.argv[1]))
journal.stash(b"old update")
journal.keep(JournalRecord(epoch=1, finished=[("0-a", "accepted")]))
journal.stash(b"old update")
resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
for act in (
    lambda: journal.stash(bytes(5000)),
    lambda: journal.keep(JournalRecord(epoch=2, finished=[("x" * 60, "late")] * 9)),
):
    try:
        act()
        print("written")
    except StateError as error:
        print(error, error.help)
assert journal.record.epoch == 1
assert journal.payload() == b"old update"
"""


def test_a_full_disk_is_said_clearly_and_the_old_state_is_intact(
    tmp_path: Path,
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path)],
        capture_output=True,
        check=True,
        text=True,
    )
    assert done.stdout.count("could not be written") == 2
    assert done.stdout.count("free space") == 2
    journal = Journal(tmp_path)
    assert journal.record == JournalRecord(epoch=1, finished=[("0-a", "accepted")])
    assert journal.payload() == b"old update"
    journal.close()
