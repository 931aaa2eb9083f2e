"""Examples mapped from a file: what happens to them when it is written meanwhile."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edge_sdk.datasets.growing import mapped_npz
from edge_sdk.datasets.growing.device_data import DeviceData
from edge_sdk.errors import DataError
from edge_sdk.tasks.arrays import blocks
from edge_sdk.tasks.task import Examples, load_task

TASK = load_task("digits")


def some(count: int) -> Examples:
    rng = np.random.default_rng(0)
    inputs = rng.integers(0, 17, (count, 1, 8, 8)).astype(np.uint8)
    return Examples(inputs, rng.integers(0, 10, count))


def save(path: Path, examples: Examples) -> None:
    np.savez(path, inputs=examples.inputs, targets=examples.targets)


def mapped(folder: Path) -> Examples:
    return mapped_npz(folder / "a.npz")


def over(path: Path, content: bytes) -> None:
    """Other bytes in the same file, at another time."""
    with path.open("r+b") as file:
        file.truncate(0)
        file.write(content)
    time = path.stat().st_mtime_ns + 1_000_000
    os.utime(path, ns=(time, time))


def mapped_data(place: Path) -> tuple[Path, Examples, DeviceData]:
    """A file of 400 examples, what is in it, and a device's data mapped from it."""
    folder = place / "data"
    folder.mkdir()
    path, many = folder / "a.npz", some(400)
    save(path, many)
    task = replace(TASK, train_data=mapped)
    return path, many, DeviceData(task, folder, place / "state")


@pytest.mark.parametrize("content", ["", "cut", "labels", "whole"])
def test_a_file_that_is_written_over_where_it_is_mapped_leaves_nothing_to_train_on(
    tmp_path: Path, content: str
) -> None:
    path, many, data = mapped_data(tmp_path)
    data.check_whole()
    before, whole = data.examples, path.read_bytes()
    wrong = Examples(many.inputs, np.full(400, 11))
    save(tmp_path / "labels.npz", wrong)
    labels = (tmp_path / "labels.npz").read_bytes()
    assert len(labels) == len(whole)
    found = {
        "": b"",
        "cut": whole[: len(whole) // 2],
        "labels": labels,
        "whole": whole,
    }[content]
    over(path, found)
    if len(found) < len(whole):
        for read in (before.take, lambda at: next(blocks(before.inputs[at]))):
            with pytest.raises(DataError, match=r"a\.npz was cut to \d+ bytes"):
                read(slice(0, 3))
    with pytest.raises(DataError, match=r"a\.npz was written over or cut in place"):
        data.check_whole()  # also in the middle of a task
    assert data.refresh() is (content == "whole")
    if content != "whole":
        assert data.failing.startswith(f"no examples are left, {path} was written")
        assert data.failing in data.lost()
        with pytest.raises(DataError, match="no examples are left"):
            data.check_whole()
        fresh = tmp_path / "fresh.npz"
        save(fresh, some(30))
        fresh.replace(path)
        assert not data.lost()  # worth a look
        assert data.refresh()
    data.check_whole()
    assert (data.failing, data.lost()) == ("", "")
    assert len(data.examples) in (30, 400)


@pytest.mark.parametrize("how", ["removed", "replaced", "its folder is gone"])
def test_a_file_that_is_replaced_stays_whole_for_who_has_mapped_it(
    tmp_path: Path, how: str
) -> None:
    path, many, data = mapped_data(tmp_path)
    if how == "replaced":
        (path.parent / ".b").write_text("no npz")
        (path.parent / ".b").replace(path)
    else:
        path.unlink()
    if how == "its folder is gone":
        path.parent.rmdir()
    assert not data.refresh()
    assert data.failing.startswith("the 400 examples of before stay: ")
    assert data.lost() == ""
    data.check_whole()
    assert (data.examples.take(slice(0, 400)).inputs == many.inputs).all()
