"""Training's own checkpoint: a device that reboots goes on from it.

Rule 1. A checkpoint belongs to one task and engine; any other is thrown away.
Rule 2. It holds all that the next step depends on (kept values, dense entries,
        momentum, random state): the update is bit-equal to an undisturbed run's.
Rule 3. It is a help, not a promise: a damaged one or a full disk costs time, no more.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from edge_sdk.checkpoint import replace_file
from edge_sdk.errors import CheckpointError, EngineError
from edge_sdk.tensor_file import read_header, read_tensors, tensors_to_bytes
from edge_sdk.training.engine import TrainingModel, TrainingSession

__all__ = ["Progress", "TaskProgress", "part"]

log = logging.getLogger(__name__)

T = TypeVar("T")
Arrays: TypeAlias = dict[str, NDArray[Any]]
EVERY_S = 30.0  # what a reboot may cost; shorter tasks never write to the card


class Progress:
    """Store of a device's training in progress, so that a restart goes on from it.

    Args:
        folder: The device's state folder.
        every_s: Seconds between two checkpoints; 0 keeps one after each step.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        folder: Path,
        *,
        every_s: float = EVERY_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.path = folder / "progress.safetensors"
        self.every_s, self.clock = every_s, clock

    def of(self, task_id: str, engine: str) -> TaskProgress:
        """The checkpoint of one task on one engine."""
        return TaskProgress(self, f"{task_id} {engine}")

    def is_of_torch(self, task_id: str) -> bool:
        """Return whether torch alone can go on from a checkpoint of this task.

        It has torch's random state in it; a damaged one is nobody's.
        """
        try:
            header = read_header(self.path)
        except (OSError, ValueError):
            return False
        told = header.metadata.get("task", "")
        return told.rpartition(" ")[0] == task_id and "random" in header.places


class TaskProgress:
    """The checkpoint of one task; made by `Progress.of`."""

    def __init__(self, place: Progress, key: str) -> None:
        self._place, self._key = place, key
        self._kept_at = place.clock()

    def resume(
        self, model: TrainingModel, session: TrainingSession
    ) -> tuple[int, float]:
        """Puts everything back; returns steps done and the sum of their losses."""

        def put_back(told: dict[str, str], arrays: Arrays) -> tuple[int, float]:
            steps, total = int(told["steps"]), float.fromhex(told["loss"])
            model.load(part(arrays, "v/"), part(arrays, "d/"))
            session.put_back(arrays)
            return steps, total

        return self.read(put_back) or (0, 0.0)

    def keep(
        self,
        steps: int,
        loss: float,
        model: TrainingModel,
        session: TrainingSession,
    ) -> None:
        """Writes a checkpoint if it is time for one."""
        if not self.due():
            return
        arrays = {
            **session.state(),
            **{f"v/{name}": array for name, array in model.values().items()},
            **{f"d/{name}": array for name, array in model.dense().items()},
        }
        self.write({"steps": str(steps), "loss": loss.hex()}, arrays)

    def read(self, put_back: Callable[[dict[str, str], Arrays], T]) -> T | None:
        """Read this task's checkpoint; None without one that is whole.

        Args:
            put_back: Takes what `write` was given; what it raises over a checkpoint of
                another shape means that there is none.
        """
        path = self._place.path
        try:
            told, arrays = read_tensors(path)
            if told.get("task") != self._key:
                path.unlink()
                return None
            _check_digest(arrays, told)
            found = put_back(told, arrays)
        except FileNotFoundError:
            return None
        except (
            *(OSError, EngineError),
            *(KeyError, ValueError, RuntimeError),
        ) as error:
            log.info("training starts from its base: %s: %s", path.name, error)
            with contextlib.suppress(OSError):
                path.unlink()
            return None
        log.info("training continues after step %s", told.get("steps"))
        return found

    def due(self) -> bool:
        """Return whether it is time for a checkpoint."""
        return self._place.clock() - self._kept_at >= self._place.every_s

    def write(self, told: dict[str, str], arrays: Arrays) -> None:
        """Replaces the checkpoint; a disk that refuses costs time, no more.

        Args:
            told: Plain words beside the arrays.
            arrays: All that the next step depends on.
        """
        whole = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
        told = {"task": self._key, **told}
        told["sha256"] = _digest(whole, told)
        try:
            replace_file(self._place.path, tensors_to_bytes(whole, told))
        except CheckpointError as error:
            log.warning("a reboot now starts the task over: %s", error)
        self._kept_at = self._place.clock()


def _check_digest(arrays: dict[str, NDArray[Any]], told: dict[str, str]) -> None:
    """Refuses what is not what was written; older versions wrote no digest."""
    digest = _digest(arrays, told)
    if told.get("sha256", digest) != digest:
        raise ValueError("it is not what was written")


def _digest(arrays: dict[str, NDArray[Any]], told: dict[str, str]) -> str:
    """SHA-256 over all that training goes on from."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"{name} {array.dtype} {array.shape}\0".encode())
        digest.update(array.tobytes())
    words = [str(told.get(key)) for key in ("task", "steps", "loss")]
    words += [told[key] for key in ("epoch", "rng") if key in told]
    digest.update(" ".join(words).encode())
    return digest.hexdigest()


def part(arrays: Arrays, head: str) -> Arrays:
    """The arrays whose names begin with a head, without it."""
    return {n.removeprefix(head): a for n, a in arrays.items() if n.startswith(head)}
