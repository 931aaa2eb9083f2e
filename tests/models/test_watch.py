"""The watch data set: windows by subject, out of a file of the authors' own format."""

from __future__ import annotations

import hashlib
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from edge_sdk.datasets import watch
from edge_sdk.datasets.readers import Grouped
from edge_sdk.datasets.watch import EXERCISES, read_watch
from edge_sdk.errors import DataError
from edge_sdk.tasks import load_task
from edge_sdk.tasks.layers import make_model

MEMBER = "seglearn/data/watch_dataset.npy"


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three recordings, written as seglearn wrote its own; theirs is the known hash."""
    rng = np.random.default_rng(1)
    told = {
        "X": [rng.normal(size=(n, 6)) for n in (250, 99, 100)],
        "y": np.array([2, 0, 6]),
        "subject": np.array([7, 7, 10]),
        "side": np.ones(3),
        "y_labels": list(EXERCISES),
    }
    path = tmp_path / "watch_dataset.npy"
    np.save(path, np.array(told, dtype=object), allow_pickle=True)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    monkeypatch.setattr(watch, "_SHA256", digest)
    return path


def check(found: Grouped, path: Path) -> None:
    told = np.load(path, allow_pickle=True).item()
    assert found.groups.tolist() == ["subject-07"] * 2 + ["subject-10"]
    assert found.examples.targets.tolist() == [2, 2, 6]
    inputs = found.examples.inputs
    assert (inputs.shape, inputs.dtype) == ((3, 6, 100), np.float32)
    np.testing.assert_allclose(inputs[1, 4], told["X"][0][100:200, 4], rtol=1e-6)


def test_recordings_become_windows_of_their_subject(small: Path) -> None:
    check(read_watch(small), small)


def test_it_is_read_out_of_the_wheel_as_it_was_downloaded(small: Path) -> None:
    wheel = small.with_name("seglearn-1.2.5-py3-none-any.whl")
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.write(small, MEMBER)
    check(read_watch(wheel), small)


def test_any_other_pickle_is_not_opened(small: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.npy"
    other.write_bytes(small.read_bytes() + b"\0")
    with pytest.raises(DataError, match=r"other\.npy is not the file that was checked"):
        read_watch(other)
    with pytest.raises(DataError, match=r"nowhere\.npy holds no watch data") as refused:
        read_watch(tmp_path / "nowhere.npy")
    assert "pip download" in refused.value.help
    empty = tmp_path / "empty.whl"
    with zipfile.ZipFile(empty, "w"):
        pass
    with pytest.raises(DataError, match=r"empty\.whl holds no watch data"):
        read_watch(empty)


def test_its_task_and_that_of_spoken_digits_fit_their_models() -> None:
    for name, classes in (("watch", 7), ("spoken", 10), ("spoken-gru", 10)):
        task = load_task(name)
        inputs = task.prepare(torch.randn(2, *task.input_shape))
        logits = make_model(task, 0)(inputs)
        assert logits.shape == (2, len(task.labels)) == (2, classes)


@pytest.mark.skipif(
    not os.environ.get("FLASH_EDGE_WATCH"), reason="FLASH_EDGE_WATCH names no wheel"
)
def test_the_true_file_has_ten_subjects_and_seven_exercises() -> None:
    found = read_watch(Path(os.environ["FLASH_EDGE_WATCH"]))
    assert np.unique(found.groups).tolist() == [
        f"subject-{i:02d}" for i in range(1, 11)
    ]
    assert np.unique(found.examples.targets).tolist() == list(range(7))
    prepared = load_task("watch").prepare(torch.from_numpy(found.examples.inputs))
    assert prepared.mean((0, 2)).abs().max() < 0.02
    assert (prepared.std((0, 2)) - 1).abs().max() < 0.02
