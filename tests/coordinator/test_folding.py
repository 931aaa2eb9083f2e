"""Old rounds as sums: the ledger stays small, and what people see stays true."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from coordinator.ledger import EvaluationRow, Ledger, open_ledger
from coordinator.ledger.rows import TaskRow
from coordinator.rounds.state import TaskPhase
from coordinator.settings import RunSettings, rounds_kept
from coordinator.views.ledger_view import read_round, read_run
from edge_sdk.errors import StateError

_COUNT = "SELECT count(*) FROM {}"
DEVICES = ("pi-1", "pi-2", "pi-3")


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    found = open_ledger(tmp_path)
    yield found
    found.close()


def play(ledger: Ledger, rounds: range, keep: int = 0) -> None:
    """Rounds of two updates each; pi-3 trains in the first alone, round 5 aborts."""
    for no in rounds:
        ledger.plan_round(no, goal=2, quorum=1, rate=0.1, base="")
        devices = DEVICES if no == 1 else DEVICES[:2]
        tasks = [
            TaskRow(
                f"{no}-{d}", no, d, 0.1, TaskPhase.ASSIGNED, b"order", base_bytes=100
            )
            for d in devices
        ]
        ledger.issue_tasks(no, tasks)
        for task in tasks:
            ledger.accept(
                task, f"{task.id}".encode() * 10, examples=7, norm=1.0, metrics={}
            )
        ledger.settle()
        if no == 5:
            ledger.abort(no, "nobody")
            continue
        ledger.freeze(no)
        name = f"round-{no:05d}.safetensors"
        ledger.put(f"sha256 of {name}", "0" * 64)
        ledger.finish(no, model=name)
        ledger.record_score(no, 0.1, {"accuracy": 0.5})
        ledger.forget_blobs(no - 2)
        if keep:
            ledger.fold(no - keep)


def settings_of(**changes: int) -> RunSettings:
    given = {"rounds": 0, **changes}
    return RunSettings(
        federation="f", task="digits", evaluation=Path(), densities=[0.1], **given
    )


def numbers(ledger: Ledger) -> dict[str, object]:
    """What people see of the whole run."""
    view = read_run(settings_of(), ledger)
    return {
        "done": (view.rounds_done, ledger.rounds_done(), view.participation.rounds),
        "parts": {
            d: (p["asked"], p["trained"], p["last"]) for d, p in ledger.parts().items()
        },
        "examples": sorted(map(str, ledger.examples_trained())),
        "last": ledger.last_counted(1000),
        "next": ledger.next_round(),
    }


def test_folded_rounds_count_as_before_and_every_device_keeps_its_last(
    tmp_path: Path, ledger: Ledger
) -> None:
    other = open_ledger(tmp_path / "whole")
    ledger.put("layers", {"fc": 1000})
    other.put("layers", {"fc": 1000})
    for one in (ledger, other):
        one.put("counts", {"0.1": {"fc": 100}})
    play(ledger, range(1, 41), keep=8)
    play(other, range(1, 41))
    assert numbers(ledger) == numbers(other)
    savings = [read_run(settings_of(), one).savings for one in (ledger, other)]
    assert savings[0] is not None
    assert savings[1] is not None
    assert savings[0].bytes == savings[1].bytes
    assert savings[0].dense_bytes == savings[1].dense_bytes
    other.close()
    assert ledger.last_counted(1000)["pi-3"] == "1-pi-3"
    assert [row.no for row in ledger.rounds()] == [*range(32, 41)]
    assert ledger.folded().done + ledger.folded().aborted == 31
    assert ledger.folded().aborted == 1
    with pytest.raises(StateError, match="round 7 is kept in sums alone"):
        read_round(ledger, 7)
    with pytest.raises(StateError, match="round 77 has not begun"):
        read_round(ledger, 77)


def test_the_ledger_is_flat_however_many_rounds_there_are(
    tmp_path: Path, ledger: Ledger
) -> None:
    sizes = []
    tables = "rounds", "tasks", "updates", "scores", "meta", "folded"
    for begin in range(1, 161, 40):
        play(ledger, range(begin, begin + 40), keep=10)
        counts = [ledger._db.execute(_COUNT.format(t)).fetchone()[0] for t in tables]
        (pages,) = ledger._db.execute("PRAGMA page_count").fetchone()
        sizes.append((counts, pages))
    assert sizes[0][0] == sizes[-1][0]
    assert sizes[-1][1] == sizes[1][1]


def test_folding_twice_changes_nothing_and_open_rounds_stay(ledger: Ledger) -> None:
    play(ledger, range(1, 12))
    ledger.plan_round(12, goal=2, quorum=1, rate=0.1, base="")
    ledger.fold(12)
    once = numbers(ledger), ledger.folded()
    ledger.fold(12)
    assert (numbers(ledger), ledger.folded()) == once
    assert [row.no for row in ledger.rounds()] == [11, 12]


def test_a_run_without_a_last_round_folds_by_itself() -> None:
    assert rounds_kept(settings_of()) == 200
    assert rounds_kept(settings_of(keep_rounds=50)) == 50
    assert rounds_kept(settings_of(rounds=30)) == 0


def tell(ledger: Ledger, rounds: range, fleet: tuple[str, ...], keep: int) -> None:
    """Rounds that every device of a fleet trains and tests, as `--living` has them."""
    for no in rounds:
        ledger.plan_round(no, goal=len(fleet), quorum=1, rate=0.1, base="")
        tasks = [
            TaskRow(f"{no:04d}-{d}", no, d, 0.1, TaskPhase.ASSIGNED, b"order" * 100)
            for d in fleet
        ]
        ledger.issue_tasks(no, tasks)
        for task in tasks:
            ledger.accept(task, task.id.encode() * 9, examples=7, norm=1.0, metrics={})
        ledger.settle()
        ledger.freeze(no)
        name = f"round-{no:05d}.safetensors"
        ledger.put(f"sha256 of {name}", "0" * 64)
        ledger.put_logged("best", {"0.1": {"round": no, "value": 0.5}}, "best")
        ledger.finish(no, model=name)
        for device in ("", *fleet):
            sums = {"accuracy": [5, 10]}
            row = EvaluationRow(no, 0.1, device, 10, sums, {"accuracy": 0.5}, "")
            ledger.record_evaluation(row)
        ledger.mark_worse(no, "on devices", "it is worse" if no % 2 else "")
        ledger.forget_blobs(no - 2)
        ledger.fold(no - keep)


def rows_of(ledger: Ledger) -> dict[str, int]:
    names = "SELECT name FROM sqlite_master WHERE type = 'table'"
    tables = [row[0] for row in ledger._db.execute(names)]
    return {t: ledger._db.execute(_COUNT.format(t)).fetchone()[0] for t in tables}


def test_no_table_grows_with_the_rounds_and_new_devices_add_their_share_alone(
    ledger: Ledger,
) -> None:
    eight = tuple(f"pi-{n}" for n in range(1, 9))
    ten = (*eight, "pi-9", "pi-10")
    ledger.begin_log("f", {"rounds": 0}, version="1")
    tell(ledger, range(1, 16), eight, keep=4)
    early = rows_of(ledger)
    tell(ledger, range(16, 28), eight, keep=4)
    assert rows_of(ledger) == early
    tell(ledger, range(28, 40), ten, keep=4)
    late = rows_of(ledger)
    grown = {table: late[table] / early[table] for table in late if early[table]}
    by_device = dict.fromkeys(("tasks", "updates", "folded", "last_counted"), 10 / 8)
    by_device["evaluations"] = 11 / 9  # those of a round together are a row, too
    assert grown == {table: by_device.get(table, 1.0) for table in grown}


def test_the_round_that_the_next_one_begins_at_stays_whatever_is_aborted(
    ledger: Ledger,
) -> None:
    play(ledger, range(1, 5))
    for no in range(5, 12):
        ledger.plan_round(no, goal=2, quorum=1, rate=0.1, base="")
        ledger.abort(no, "nobody")
        ledger.fold(no - 1)
    assert [row.no for row in ledger.rounds() if row.model][-1] == 4
    assert ledger.folded().done == 3


def test_devices_that_left_keep_a_row_each_and_no_round(ledger: Ledger) -> None:
    ledger.begin_log("f", {"rounds": 0}, version="1")
    tell(ledger, range(1, 11), ("pi-1", "pi-2"), keep=3)
    before = rows_of(ledger)
    for no in range(11, 21):  # each round has a guest, who never comes again
        tell(ledger, range(no, no + 1), ("pi-1", f"guest-{no}"), keep=3)
    after = rows_of(ledger)
    more = {t: after[t] - before[t] for t in after if after[t] != before[t]}
    assert set(more) == {"folded", "last_counted"}
    assert set(more.values()) == {6}
    counted = ledger.last_counted(1000)
    assert counted["guest-11"] == "0011-guest-11"
    assert counted["pi-1"] == "0020-pi-1"
    assert ledger.last_counted(11).get("guest-11") is None
    rounds = ledger.rounds_counted()
    assert (rounds["guest-11"], rounds["pi-1"], rounds["pi-2"]) == (11, 20, 10)


def test_checkpoints_that_a_kill_left_half_written_are_gone_at_the_next_start(
    tmp_path: Path,
) -> None:
    for folder in ("checkpoints", "models"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / ".round-00003.safetensors.17-140.tmp").write_bytes(b"half")
        (tmp_path / folder / "round-00002.safetensors").write_bytes(b"whole")
    open_ledger(tmp_path).close()
    assert [*tmp_path.rglob("*.tmp")] == []
    assert len([*tmp_path.rglob("*.safetensors")]) == 2
