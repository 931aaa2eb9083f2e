"""Motion of a smart watch in physiotherapy: ten subjects, seven shoulder exercises."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge_sdk.datasets.pickled import arrays_in, check_sha256
from edge_sdk.datasets.readers import Grouped
from edge_sdk.errors import DataError
from edge_sdk.tasks.task import Examples

__all__ = ["EXERCISES", "read_watch"]

EXERCISES = ("PEN", "ABD", "FEL", "IR", "ER", "TRAP", "ROW")
AXES = 6  # acceleration in g, then rotation in rad/s, three each
_MEMBER = "seglearn/data/watch_dataset.npy"
_SHA256 = "eb122f23cdf06ef6bd6c6c5312958ec5cf9d038e2e6d457b8081662c75a42537"


def read_watch(path: Path, *, steps: int = 100) -> Grouped:
    """The watch data set of seglearn (arXiv:1802.01489), by subject.

    The recordings, at 50 Hz, are cut into windows that do not overlap; a rest that
    fills no window is left out.

    Args:
        path: ``watch_dataset.npy``, or the wheel seglearn 1.2.5 that holds it, as
            ``pip download --no-deps seglearn==1.2.5`` brings it.
        steps: Samples of a window; 100 are two seconds.

    Returns:
        float32 (n, 6, steps), int64 exercises, and subjects ``subject-01`` to ``-10``.

    Raises:
        DataError: If it cannot be read or is not the known file: it is a pickle, and no
            other is opened.
    """
    content = _content(path)
    check_sha256(content, _SHA256, str(path))
    found = arrays_in(_body(content), str(path)).item()
    windows, exercises, subjects = [], [], []
    recordings = zip(found["X"], found["y"], found["subject"], strict=True)
    for recording, exercise, subject in recordings:
        cut = _windows(np.asarray(recording, np.float32), steps)
        windows.append(cut)
        exercises += [int(exercise)] * len(cut)
        subjects += [f"subject-{int(subject):02d}"] * len(cut)
    examples = Examples(np.concatenate(windows), np.array(exercises, np.int64))
    return Grouped(examples, np.array(subjects))


def _content(path: Path) -> bytes:
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as wheel:
                return wheel.read(_MEMBER)
        return path.read_bytes()
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        raise DataError(
            f"{path} holds no watch data: {error}",
            remedy="Run `pip download --no-deps seglearn==1.2.5` and name the wheel.",
        ) from error


def _body(content: bytes) -> bytes:
    """The pickle inside an npy file of one object: after a header of one line."""
    return content[content.index(b"\n") + 1 :]


def _windows(recording: NDArray[np.float32], steps: int) -> NDArray[np.float32]:
    """(samples, axes) -> (windows, axes, steps)."""
    count = len(recording) // steps
    whole = recording[: count * steps].reshape(count, steps, AXES)
    return np.ascontiguousarray(whole.transpose(0, 2, 1))
