"""Workers on many machines: Ray actors, one thread each.

A device's part is read here, by its task, and put into Ray's object store once: each
machine fetches it once and all its workers read one copy. A task of the user's own
travels by value; flash-edge itself must be installed on every machine, and the same.
"""

from __future__ import annotations

import hashlib
import os
import queue
import sys
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import BrokenExecutor, Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

import edge_sdk
from coordinator.simulation.data.folders import read_as_partitions
from coordinator.simulation.workers.engine import Engine
from coordinator.simulation.workers.interface import (
    ChunkScore,
    EvaluationChunk,
    TrainingJob,
    Workers,
)
from coordinator.simulation.workers.jobs import JobRunner
from edge_sdk.errors import DependencyError, RunError, SettingsError
from edge_sdk.tasks.task import SHIPPED, Examples, Task, load_task
from edge_sdk.training.update import PackedUpdate

__all__ = ["import_ray", "ray_pool"]

READY_S = 900.0  # two cores with twenty programs on them took over 300


@contextmanager
def ray_pool(
    count: int,
    task: str,
    evaluation: Path,
    engine: Engine,
    *,
    address: str = "",
    partitions: bool = False,
) -> Iterator[Workers]:
    """Workers of a Ray cluster; they end with this process.

    Args:
        count: How many; 0 takes all processors of the cluster.
        task: The task's reference; importable here.
        evaluation: The evaluation set's folder, here.
        engine: The run's.
        address: The cluster's; empty starts one of this machine only.
        partitions: Whether examples are read as partition files, not by the task.

    Raises:
        DependencyError: If Ray is not installed.
        RunError: If the cluster cannot be reached, or its machines cannot work.
        SettingsError: If it has fewer processors than workers are wanted.
    """
    ray = import_ray()
    with ExitStack() as stack:
        stack.enter_context(_cluster(ray, count, address))
        here = int(ray.cluster_resources().get("CPU", 0))
        if not count <= here or not here:
            raise SettingsError(
                f"{count} workers are wanted and Ray has {here} processors",
                remedy="Lower --workers, or add machines with `ray start`.",
            )
        found = read_as_partitions(load_task(task)) if partitions else load_task(task)
        _travel(ray, task)
        given = ray.put((found, found.read_eval(evaluation, known=True), engine))
        actor = ray.remote(num_cpus=1, max_restarts=0)(Worker)
        actors = [actor.remote(given) for _ in range(count or here)]
        stack.callback(lambda: [ray.kill(one) for one in actors])
        _check(ray, actors)
        pool = stack.enter_context(ThreadPoolExecutor(len(actors), "ray"))
        yield _Actors(ray, actors, pool, found)


class Worker:
    """Worker in an actor's process."""

    def __init__(self, given: tuple[Task, Examples, Engine]) -> None:
        torch.set_num_threads(1)
        self._bench = JobRunner(*given)

    def code(self) -> str:
        """Digest of the flash-edge that is installed there."""
        return _digest()

    def train(self, work: TrainingJob, examples: Examples) -> PackedUpdate:
        """A device's part of a round."""
        return self._bench.train(work, examples)

    def score(self, chunk: EvaluationChunk, own: Examples | None) -> ChunkScore:
        """A part of an evaluation."""
        return self._bench.score(chunk, own)


class _Actors:
    """The workers as the simulation asks them: a thread waits for each that is busy."""

    def __init__(
        self, ray: ModuleType, actors: list[Any], pool: ThreadPoolExecutor, task: Task
    ) -> None:
        self._ray, self._pool, self._task = ray, pool, task
        self._idle: queue.SimpleQueue[Any] = queue.SimpleQueue()
        for actor in actors:
            self._idle.put(actor)
        self._parts: dict[Path, Any] = {}  # a device's folder -> its examples, in Ray
        self._lock = threading.Lock()

    def train(self, work: TrainingJob) -> Future[PackedUpdate]:
        return self._pool.submit(
            self._do, lambda actor: actor.train.remote(work, self._part(work.folder))
        )

    def score(self, chunk: EvaluationChunk) -> Future[ChunkScore]:
        own = chunk.folder
        return self._pool.submit(
            self._do,
            lambda actor: actor.score.remote(chunk, own and self._part(own)),
        )

    def _part(self, folder: Path) -> Any:
        with self._lock:
            if folder not in self._parts:
                examples = self._task.read_train(folder, known=True)
                self._parts[folder] = self._ray.put(examples)
            return self._parts[folder]

    def _do(self, ask: Any) -> Any:
        errors = self._ray.exceptions
        actor = self._idle.get()
        try:
            return self._ray.get(ask(actor))
        except errors.RayTaskError as error:
            raise error.cause from error  # as the job raised it
        except errors.RayError as error:  # its process, its machine or the cluster
            raise BrokenExecutor(str(error)) from error
        finally:
            self._idle.put(actor)


def import_ray() -> ModuleType:
    """Ray itself, told to keep its use to itself.

    Raises:
        DependencyError: If it is not installed.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it would tell its makers
    try:
        import ray  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise DependencyError(
            "--pool ray needs Ray, which is not installed",
            remedy="pip install 'flash-edge[ray]', here and on every machine of the "
            "cluster; or leave --pool out for processes of this machine.",
        ) from error
    return ray


@contextmanager
def _cluster(ray: ModuleType, count: int, address: str) -> Iterator[None]:
    with ExitStack() as stack:
        told: dict[str, Any] = {"address": address or "local"}
        if not address:
            folder = stack.enter_context(
                tempfile.TemporaryDirectory(
                    prefix="fe-ray-", ignore_cleanup_errors=True
                )
            )
            told |= {"num_cpus": count or len(os.sched_getaffinity(0))}
            told |= {"include_dashboard": False, "_temp_dir": folder}
        stack.callback(ray.shutdown)
        try:
            ray.init(**told, log_to_driver=False, configure_logging=False)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise RunError(
                f"Ray at {address or 'this machine'} cannot be used: {error}",
                remedy="Check --ray-address, and that `ray status` answers there.",
            ) from error
        yield


def _travel(ray: ModuleType, task: str) -> None:
    """A module of the user's own is not installed on other machines: send its code."""
    name = SHIPPED.get(task, task).partition(":")[0].partition(".")[0]
    if name != edge_sdk.__name__:
        ray.cloudpickle.register_pickle_by_value(sys.modules[name])


def _check(ray: ModuleType, actors: list[Any]) -> None:
    """Waits for all, and refuses those that would compute something else.

    Raises:
        RunError: If one does not start, or has other code.
    """
    try:
        codes = ray.get([actor.code.remote() for actor in actors], timeout=READY_S)
    except ray.exceptions.RayError as error:
        raise RunError(
            f"a worker of the Ray cluster does not start: {error}",
            remedy="Install flash-edge[coordinator,ray] on every machine of it, in the "
            "Python that Ray runs with.",
        ) from error
    if set(codes) != {_digest()}:
        raise RunError(
            "a machine of the Ray cluster has another flash-edge than this one",
            remedy="Install the same version everywhere: equal settings must give "
            "equal bytes.",
        )


def _digest() -> str:
    """Of the code that trains, here."""
    root = Path(edge_sdk.__file__).parent
    found = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        found.update(path.relative_to(root).as_posix().encode() + path.read_bytes())
    return found.hexdigest()
