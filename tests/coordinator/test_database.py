"""A ledger, an identity store or a book of deliveries that is broken says how."""

from __future__ import annotations

import errno
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from databases import opened
from past import Past

from coordinator.checkpoints.models import ModelStore, model_name
from coordinator.delivery.store import DeliveryStore
from coordinator.identity.store import IdentityStore
from coordinator.ledger import open_ledger, read_ledger
from coordinator.ledger.database import database_error
from coordinator.views.terminal.status import has_run
from edge_sdk.errors import StateError, disk_remedy
from edge_sdk.terminal import Exit

Break = Callable[[Path], None]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A run of two rounds that was closed in good order."""
    past = Past(tmp_path / "run", devices=2)
    past.hello()
    for no in (1, 2):
        past.begin(no)
        past.accept_all(no)
        past.end(no, accuracy=0.5)
    past.ledger.close()
    return past.folder


def overwrite(start: int, content: bytes) -> Break:
    def spoil(path: Path) -> None:
        with path.open("r+b") as file:
            file.seek(start)
            file.write(content)

    return spoil


def cut(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)


def replaced(path: Path) -> None:
    path.write_bytes(b"# this is a text file\n" * 400)


def a_row(statement: str) -> Break:
    def spoil(path: Path) -> None:
        with opened(path) as db:
            db.execute(statement)

    return spoil


BROKEN = {
    "another file": (replaced, "is no SQLite database"),
    "its head overwritten": (overwrite(0, b"\xff" * 64), "is no SQLite database"),
    "its pages overwritten": (overwrite(4096, b"\xff" * 20_000), "is damaged"),
    "cut in the middle": (cut, "is damaged"),
    "a phase that is none": (a_row("UPDATE rounds SET phase = 'x'"), "a row of"),
    "text that is no JSON": (
        a_row("UPDATE meta SET value = '{' WHERE key = 'schema'"),
        "a row of",
    ),
    "metrics that are no JSON": (a_row("UPDATE scores SET metrics = '{'"), "a row of"),
    "an order that is none": (
        a_row("UPDATE tasks SET order_bytes = x'ff00'"),
        "a row of",
    ),
}


def read_all(folder: Path) -> None:
    ledger = read_ledger(folder)
    try:
        ledger.scores()
        ledger.devices()
        for row in ledger.rounds():
            for task in ledger.tasks(row.no):
                task.order(folder)
    finally:
        ledger.close()


@pytest.mark.parametrize("how", BROKEN)
def test_every_way_to_break_a_ledger_is_said_with_a_remedy_that_fits(
    folder: Path, how: str
) -> None:
    spoil, said = BROKEN[how]
    spoil(folder / "ledger.sqlite")
    with pytest.raises(StateError) as caught:
        read_all(folder)
    assert said in str(caught.value)
    assert "ledger.sqlite" in str(caught.value)
    assert "copy" in caught.value.help
    for misleading in ("same version", "another checkpoint", "room"):
        assert misleading not in caught.value.help


@pytest.mark.parametrize(
    ("how", "command"),
    [
        ("another file", ["status"]),
        ("cut in the middle", ["rounds"]),
        ("metrics that are no JSON", ["report"]),
        ("a phase that is none", ["resume"]),
    ],
)
def test_a_broken_ledger_ends_a_command_with_17_and_two_lines(
    folder: Path, how: str, command: list[str]
) -> None:
    BROKEN[how][0](folder / "ledger.sqlite")
    done = subprocess.run(
        [sys.executable, "-m", "coordinator.cli", *command, folder],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == Exit.STATE, done.stderr
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr


def test_an_empty_ledger_is_no_run_unless_checkpoints_lie_beside_it(
    folder: Path,
) -> None:
    (folder / "ledger.sqlite").write_bytes(b"")
    assert not has_run(folder)
    with pytest.raises(StateError, match="is empty: it was cut off"):
        read_ledger(folder)
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints" / model_name(2)).write_bytes(b"x")
    with pytest.raises(StateError, match="although checkpoints lie beside it"):
        has_run(folder)


def test_a_write_ahead_log_that_was_cut_off_is_named_when_the_run_goes_on(
    tmp_path: Path,
) -> None:
    """SQLite passes over what it cannot read there: the ledger is just older."""
    past = Past(tmp_path / "run", devices=1)
    past.hello()
    for no in range(1, 6):
        past.begin(no)
        past.accept_all(no)
        past.end(no, accuracy=0.5)
    killed = tmp_path / "killed"  # as a kill -9 leaves it: the log is not merged
    shutil.copytree(past.folder, killed)
    past.ledger.close()
    wal = killed / "ledger.sqlite-wal"
    with wal.open("r+b") as file:
        file.truncate(wal.stat().st_size // 2)
    (killed / "ledger.sqlite-shm").unlink()
    ledger = open_ledger(killed)
    last = max(row.no for row in ledger.rounds() if row.model)
    ledger.close()
    assert last < 5
    store = ModelStore(killed, "digits", ())
    (killed / "checkpoints").mkdir()
    for no in (4, 5):
        (killed / "checkpoints" / model_name(no)).write_bytes(b"x")
    with pytest.raises(StateError) as caught:
        store.load(model_name(last))
    assert "has lost its latest entries" in str(caught.value)
    assert "ledger.sqlite-wal of one moment" in caught.value.help
    with pytest.raises(StateError, match="is gone, and"):
        store.load(model_name(6))


@pytest.mark.parametrize("kind", ["identities", "deliveries"])
def test_the_other_databases_of_a_run_say_the_same(tmp_path: Path, kind: str) -> None:
    def use() -> None:
        if kind == "identities":
            IdentityStore(tmp_path).certificates()
        else:
            DeliveryStore(tmp_path).latest()

    path = {"identities": "identity.sqlite", "deliveries": "deliveries.sqlite"}[kind]
    where = tmp_path / path if kind == "identities" else tmp_path / "deliveries" / path
    where.parent.mkdir(exist_ok=True)
    replaced(where)
    with pytest.raises(StateError, match="is no SQLite database") as caught:
        use()
    assert "copy of the whole folder" in caught.value.help
    where.unlink()
    where.mkdir()
    with pytest.raises(StateError) as caught:
        use()
    assert "A file is where a folder should be" in caught.value.help


@pytest.mark.parametrize(
    ("said", "what", "remedy"),
    [
        ("database or disk is full", "could not be written", "Free some space"),
        ("attempt to write a readonly database", "cannot be opened", "chown"),
        ("unable to open database file", "cannot be opened", "chown"),
        ("database is locked", "held by another process", "backup"),
        ("disk I/O error", "a disk that fails", "dmesg"),
        ("no such column: x", "of another version", "version of flash-edge"),
        ("malformed JSON", "a row of", "copy"),
        ("UNIQUE constraint failed: tasks.id", "refused what was to be", "Report"),
        ("something new", "refused", "copy"),
    ],
)
def test_each_word_of_sqlite_has_its_own_remedy(
    tmp_path: Path, said: str, what: str, remedy: str
) -> None:
    path = tmp_path / "ledger.sqlite"
    path.touch()
    error = database_error(path, sqlite3.OperationalError(said))
    assert what in str(error)
    assert remedy in error.help


def test_a_full_disk_a_mode_and_a_read_only_disk_have_different_remedies() -> None:
    numbers = (errno.ENOSPC, errno.EACCES, errno.EROFS, errno.EIO, errno.EMFILE)
    helps = {disk_remedy(OSError(number, "x")) for number in numbers}
    assert len(helps) == len(numbers)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a full disk")
def test_a_folder_that_cannot_be_written_is_said_by_its_cause(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("a file")
    with pytest.raises(StateError) as caught:
        open_ledger(tmp_path / "run")
    assert "A file is where a folder should be" in caught.value.help
    if os.geteuid() != 0:  # root writes everywhere
        locked = tmp_path / "locked"
        locked.mkdir(mode=0o500)
        with pytest.raises(StateError) as caught:
            open_ledger(locked)
        assert "chown" in caught.value.help
