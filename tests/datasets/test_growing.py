"""Sources that grow: what is read, what is kept, and what a failure leaves."""

from __future__ import annotations

import os
import re
import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from databases import opened
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_sdk.datasets.growing import (
    TimedExamples,
    folder_examples,
    mapped_npz,
    sqlite_examples,
    stream_examples,
)
from edge_sdk.datasets.growing.device_data import DeviceData, version_of
from edge_sdk.datasets.growing.keep import KeepRule, kept, parse_keep
from edge_sdk.errors import DataError, EdgeError, SettingsError
from edge_sdk.tasks.arrays import check_present
from edge_sdk.tasks.task import Examples, load_task
from edge_sdk.training.holdout.divided import DividedExamples
from edge_sdk.wire.named import Holdout

TASK = replace(load_task("digits"), train_data=folder_examples)


def some(count: int, start: int = 0) -> Examples:
    rng = np.random.default_rng(start)
    inputs = rng.integers(0, 17, (count, 1, 8, 8)).astype(np.uint8)
    return Examples(inputs, rng.integers(0, 10, count))


def save(path: Path, examples: Examples, at: float = 0.0) -> None:
    np.savez(path, inputs=examples.inputs, targets=examples.targets)
    os.utime(path, (at, at))


@pytest.mark.parametrize(
    ("text", "keep"),
    [
        ("", KeepRule()),
        ("30 days", KeepRule("seconds", 30 * 86_400)),
        ("1 hour", KeepRule("seconds", 3600)),
        ("20000 examples", KeepRule("newest", 20_000)),
        ("20000", KeepRule("newest", 20_000)),
        ("reservoir of 5", KeepRule("reservoir", 5)),
    ],
)
def test_a_setting_is_a_window_or_a_reservoir(text: str, keep: KeepRule) -> None:
    assert parse_keep(text) == keep


@pytest.mark.parametrize("text", ["-3 days", "0", "all", "reservoir", "3 moons", "1e9"])
def test_another_setting_is_named(text: str) -> None:
    with pytest.raises(SettingsError, match="is no window and no reservoir"):
        parse_keep(text)


def test_the_newest_are_a_view_of_the_same_memory() -> None:
    whole = some(20)
    found = kept(whole, KeepRule("newest", 5), now=0, seed=0)
    assert np.shares_memory(found.inputs, whole.inputs)
    assert (found.targets == whole.targets[15:]).all()


def test_a_window_of_time_keeps_what_is_newer() -> None:
    whole = some(4)
    timed = TimedExamples(whole.inputs, whole.targets, times=np.arange(4.0))
    found = kept(timed, KeepRule("seconds", 1.5), now=3.0, seed=0)
    assert (found.targets == whole.targets[2:]).all()
    with pytest.raises(DataError, match="no example is as new"):
        kept(timed, KeepRule("seconds", 1.5), now=30.0, seed=0)
    with pytest.raises(DataError, match="the examples say no times"):
        kept(whole, KeepRule("seconds", 1.5), now=3.0, seed=0)


@settings(max_examples=20, deadline=None)
@given(order=st.permutations(range(12)), seed=st.integers(0, 1 << 31))
def test_a_reservoir_depends_on_examples_and_seed_alone(
    order: list[int], seed: int
) -> None:
    whole = some(12)
    turned = whole.take(np.array(order))
    chosen = [
        {(x.tobytes(), int(y)) for x, y in zip(e.inputs, e.targets, strict=True)}
        for e in (
            kept(one, KeepRule("reservoir", 5), now=0, seed=seed)
            for one in (whole, turned)
        )
    ]
    assert chosen[0] == chosen[1]
    assert len(chosen[0]) == 5


def test_a_reservoir_takes_old_and_new_alike() -> None:
    whole, counts = some(40), np.zeros(40)
    rows = {x.tobytes(): at for at, x in enumerate(whole.inputs)}
    for seed in range(200):
        for x in kept(whole, KeepRule("reservoir", 10), now=0, seed=seed).inputs:
            counts[rows[x.tobytes()]] += 1
    assert abs(counts[:20].sum() - 1000) < 100  # 3 sigma are 82


def test_a_mapped_file_has_the_values_and_takes_no_memory(tmp_path: Path) -> None:
    whole = some(7)
    save(tmp_path / "a.npz", whole)
    found = mapped_npz(tmp_path / "a.npz")
    assert isinstance(found.inputs.base, np.memmap) or isinstance(
        found.inputs, np.memmap
    )
    assert (found.inputs == whole.inputs).all()
    assert (found.targets == whole.targets).all()


@pytest.mark.parametrize("damage", ["gone", "cut", "compressed", "lacks", "text"])
def test_a_file_that_cannot_be_mapped_is_named(tmp_path: Path, damage: str) -> None:
    path, whole = tmp_path / "a.npz", some(7)
    save(path, whole)
    match damage:
        case "gone":
            path.unlink()
        case "cut":
            path.write_bytes(path.read_bytes()[:-200])
        case "compressed":
            np.savez_compressed(path, inputs=whole.inputs, targets=whole.targets)
        case "lacks":
            np.savez(path, inputs=whole.inputs)
        case _:
            path.write_text("text")
    with pytest.raises(DataError, match=r"a\.npz cannot be mapped"):
        mapped_npz(path)


def test_a_folder_of_files_is_in_the_order_of_their_times(tmp_path: Path) -> None:
    for name, start, at in (("b", 1, 100.0), ("a", 2, 200.0), (".half", 3, 300.0)):
        save(tmp_path / f"{name}.npz", some(3, start), at)
    found = folder_examples(tmp_path)
    assert (
        found.inputs == np.concatenate([some(3, 1).inputs, some(3, 2).inputs])
    ).all()
    assert found.times is not None
    assert found.times.tolist() == [100.0] * 3 + [200.0] * 3
    odd = Examples(np.zeros((2, 3), np.float32), np.zeros(2, np.int64))
    save(tmp_path / "c.npz", odd, 400.0)
    with pytest.raises(DataError, match=r"c\.npz: inputs are float32 of shape \(3,\)"):
        folder_examples(tmp_path)
    with pytest.raises(DataError, match="holds no file"):
        folder_examples(tmp_path / "empty")


def database(path: Path, rows: list[tuple[Any, ...]]) -> None:
    with opened(path) as db:
        db.execute("CREATE TABLE IF NOT EXISTS seen (x BLOB, y INTEGER, t REAL)")
        db.executemany("INSERT INTO seen VALUES (?, ?, ?)", rows)
    db.close()


def test_a_database_gives_its_rows_while_another_writes(tmp_path: Path) -> None:
    path = tmp_path / "a.sqlite"
    rows = [(np.full(4, n, "<f4").tobytes(), n % 3, float(n)) for n in range(5)]
    database(path, rows)
    query = "SELECT x, y, t FROM seen ORDER BY t"
    found = sqlite_examples(path, query, shape=(2, 2))
    assert found.inputs.shape == (5, 2, 2)
    assert found.targets.tolist() == [0, 1, 2, 0, 1]
    assert found.times is not None
    assert found.times.tolist() == [0, 1, 2, 3, 4]
    database(path, [(b"short", 1, 9.0)])
    with pytest.raises(DataError, match="input 5 is 5, not a BLOB of 16 bytes"):
        sqlite_examples(path, query, shape=(2, 2))
    with pytest.raises(DataError, match="cannot be read: no such column"):
        sqlite_examples(path, "SELECT z FROM seen", shape=(1,))
    with pytest.raises(DataError, match="is no file"):
        sqlite_examples(tmp_path / "b.sqlite", query, shape=(1,))


@pytest.mark.parametrize(("count", "most"), [(3, 5), (5, 5), (13, 5), (12, 4), (7, 1)])
def test_a_stream_keeps_its_last_rows_in_order(count: int, most: int) -> None:
    def rows() -> Iterator[tuple[Any, ...]]:
        for n in range(count):
            yield np.full(2, n), n, float(n)

    found = stream_examples(rows(), most=most)
    assert found.targets.tolist() == list(range(count))[-most:]
    assert found.inputs[:, 1].tolist() == list(range(count))[-most:]
    with pytest.raises(DataError, match="gives no examples"):
        stream_examples(iter(()), most=3)


def test_data_that_grow_are_read_between_tasks_and_a_failure_keeps_what_was(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder, state = tmp_path / "data", tmp_path / "state"
    folder.mkdir()
    save(folder / "a.npz", some(10), 100.0)
    data = DeviceData(TASK, folder, state)
    assert not data.refresh()
    save(folder / "b.npz", some(5, 1), 200.0)
    assert data.refresh()
    assert len(data.examples) == 15
    (folder / "c.npz").write_text("text")
    assert not data.refresh()
    assert "c.npz" in caplog.text
    assert "the 15 examples of before stay" in caplog.text
    caplog.clear()
    assert not data.refresh()
    assert not caplog.text  # what failed is not read again before it changes
    for path in folder.glob("*"):
        path.unlink()
    assert not data.refresh()
    assert len(data.examples) == 15
    save(folder / "d.npz", some(2, 3), 300.0)
    assert data.refresh()
    assert len(data.examples) == 2


@pytest.mark.parametrize(
    "away",
    [
        OSError(5, "Input/output error"),
        FileNotFoundError(2, "No such file"),
        TimeoutError("the share does not answer"),
        sqlite3.OperationalError("database is locked"),
        MemoryError(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_source_that_was_away_is_read_when_it_is_back_with_nothing_changed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, away: Exception
) -> None:
    version, failing = ["1"], [False]

    def read(_: Path) -> Examples:
        if failing[0]:
            raise away
        return some(int(version[0]))

    read.version = lambda _: version[0]  # type: ignore[attr-defined]
    state = tmp_path / "state"
    state.mkdir()
    data = DeviceData(replace(TASK, train_data=read), tmp_path, state)
    version[0], failing[0] = "4", True
    assert not data.refresh()
    assert not data.refresh()
    assert caplog.text.count("cannot be read anew") == 1
    assert data.failing.startswith("the 1 examples of before stay: ")
    assert len(data.examples) == 1
    data.trains("1-a")  # on what it has: the new ones are not trained on
    assert data.is_new(lambda _: True)
    failing[0] = False
    assert data.refresh()
    assert (len(data.examples), data.failing) == (4, "")
    data.trains("2-a")
    assert not data.is_new(lambda _: True)
    version[0], failing[0] = "5", True
    assert not data.refresh()
    assert caplog.text.count("cannot be read anew") == 2  # it is another time
    version[0] = "4"  # back as it was: what is at hand is all there is
    assert not data.refresh()
    assert data.failing == ""


@pytest.mark.parametrize("away", ["folder", "function", "garbage"])
def test_a_device_that_waits_begins_without_examples_and_takes_them_later(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, away: str
) -> None:
    folder, broken = tmp_path / "data", [away == "function"]
    if away == "garbage":
        folder.mkdir()
        (folder / "a.npz").write_bytes(b"half a file")

    def read(place: Path) -> Examples:
        if broken[0]:
            raise ConnectionError("the sensor does not answer")
        return folder_examples(place)

    task, state = replace(TASK, train_data=read), tmp_path / "state"
    with pytest.raises(EdgeError):
        DeviceData(task, folder, state)
    data = DeviceData(task, folder, state, waits=True)
    assert len(data.examples) == 0
    assert data.failing.startswith("there are no examples: ")
    assert data.lost() == data.failing
    assert caplog.text.count("the data cannot be read, there are no examples") == 1
    with pytest.raises(DataError, match="there are no examples: "):
        data.check_whole()
    divided = DividedExamples(data.examples, None, state)
    held, why = divided.held(Holdout(0.2, 1))
    assert (held, why) == (None, "there are no examples here")
    broken[0] = False
    folder.mkdir(exist_ok=True)
    save(folder / "a.npz", some(40))
    assert data.lost() == ""
    assert (len(data.examples), data.failing) == (40, "")
    data.check_whole()


def test_a_file_that_is_cut_while_it_is_copied_or_hashed_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.npz"
    save(path, some(4000))
    whole, looked = path.read_bytes(), [0]

    def cut(*arrays: Any) -> None:
        looked[0] += 1
        if looked[0] == 9:
            with path.open("r+b") as file:
                file.truncate(5000)
        check_present(*arrays)

    found = mapped_npz(path)
    monkeypatch.setattr("edge_sdk.datasets.growing.keep.check_present", cut)
    with pytest.raises(DataError, match=r"a\.npz was cut to 5000 bytes"):
        kept(found, KeepRule("reservoir", 5), now=0.0, seed=1)
    path.write_bytes(whole)
    looked[0] = 0
    divided = DividedExamples(mapped_npz(path))
    monkeypatch.setattr("edge_sdk.training.holdout.divided.check_present", cut)
    with pytest.raises(DataError, match=r"a\.npz was cut to 5000 bytes"):
        divided.train(Holdout(0.2, 1))
    path.write_bytes(whole)

    def cut_then_map(path: Path) -> Examples:
        found = mapped_npz(path)
        with path.open("r+b") as file:
            file.truncate(5000)
        return found

    monkeypatch.setattr("edge_sdk.datasets.growing.folder.mapped_npz", cut_then_map)
    with pytest.raises(DataError, match=r"a\.npz was cut while it was read"):
        folder_examples(tmp_path)


def test_what_was_trained_on_is_known_after_a_restart(tmp_path: Path) -> None:
    folder, state = tmp_path / "data", tmp_path / "state"
    folder.mkdir()
    save(folder / "a.npz", some(10), 100.0)
    data = DeviceData(TASK, folder, state)
    done: set[str] = set()
    assert data.is_new(done.__contains__)
    data.trains("1-a")
    assert data.is_new(done.__contains__)  # its update has not counted yet
    done.add("1-a")
    again = DeviceData(TASK, folder, state)
    assert not again.is_new(done.__contains__)
    save(folder / "b.npz", some(1), 200.0)
    assert again.is_new(done.__contains__)
    (state / "data.json").write_text("{")
    assert again.is_new(done.__contains__)


def test_a_source_elsewhere_says_its_version_itself(tmp_path: Path) -> None:
    version = ["1"]

    def read(_: Path) -> Examples:
        return some(int(version[0]))

    read.version = lambda _: version[0]  # type: ignore[attr-defined]
    data = DeviceData(replace(TASK, train_data=read), tmp_path, tmp_path)
    assert not data.refresh()
    version[0] = "4"
    assert data.refresh()
    assert len(data.examples) == 4
    assert version_of(TASK, tmp_path) == version_of(TASK, tmp_path)


def _raises(folder: Path) -> Examples:
    raise KeyError("no holdout here")


@pytest.mark.parametrize(
    ("read", "told", "remedy"),
    [
        (_raises, "by holdout_data raised KeyError", r"Correct test_growing\.py, line"),
        (lambda _: None, "by holdout_data gave a NoneType", "from holdout_data"),
        (
            lambda _: Examples(np.zeros((0, 1, 8, 8)), np.zeros(0, np.int64)),
            "holdout_data of .*: there are no examples",
            "Put the examples",
        ),
    ],
    ids=["raises", "gives none", "is empty"],
)
def test_which_of_a_tasks_functions_failed_is_named_with_what_to_do(
    tmp_path: Path, read: Any, told: str, remedy: str
) -> None:
    task = replace(TASK, holdout_data=read)
    with pytest.raises(EdgeError, match=told) as raised:
        task.read_holdout(tmp_path)
    assert re.search(remedy, raised.value.help)
