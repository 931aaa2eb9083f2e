"""Workers that cannot start or that die say why, at once."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from coordinator.simulation.workers.engine import Engine
from coordinator.simulation.workers.interface import results, worker_died
from coordinator.simulation.workers.process_pool import process_pool
from edge_sdk.errors import EdgeError, RunError, TaskError

TASK = """
import os
import numpy as np
from torch import nn
from torch.nn import functional as F
from edge_sdk.tasks import Examples, Task
{first}

def read(folder):
    {read}
    return Examples(np.zeros((4, 4), np.float32), np.zeros(4, np.int64))

task = Task(
    name="t", model=lambda: nn.Linear(4, 2), loss=lambda p, t: F.cross_entropy(p, t),
    train_data=read, eval_data=read, input_shape=(4,), labels=("a", "b"),
)
"""
SIMULATE = """
from pathlib import Path
from coordinator.simulation.run import simulate
from coordinator.simulation.settings import SimulationSettings, WarmUpSettings
done = simulate(
    Path("run"),
    SimulationSettings(
        task="{task}", folder="data", densities=[0.5], rounds=1, cohort=1,
        warm_up=WarmUpSettings(devices=1, epochs=1),
    ),
    worker_count=1,
)
print("rounds", len(done))
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    for name in ("device-1", "device-2", "evaluation"):
        (tmp_path / "data" / name).mkdir(parents=True)
    return tmp_path


def write_task(folder: Path, name: str, *, first: str = "", read: str = "pass") -> str:
    text = TASK.format(first=first, read=read)
    (folder / f"{name}.py").write_text(text, encoding="utf-8")
    return f"{name}:task"


def ends_with(task: str, folder: Path) -> EdgeError:
    """The error of a pool of one worker that is asked once."""
    with (
        pytest.raises(EdgeError) as caught,
        process_pool(1, task, folder, Engine("torch")) as workers,
    ):
        results(workers.score, [None])  # type: ignore[list-item] - it never gets there
    return caught.value


def python(program: str, folder: Path, *, how: str) -> subprocess.CompletedProcess[str]:
    (folder / "script.py").write_text(program, encoding="utf-8")
    arguments = {"piped": ["-"], "script": ["script.py"], "prompt": ["-i", "-q"]}[how]
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        input="" if how == "script" else program,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        encoding="utf-8",
        check=False,
    )


def test_what_fails_in_a_worker_only_is_said_in_its_own_words(here: Path) -> None:
    only = "import multiprocessing as m\nassert m.parent_process() is None, 'no GPU'"
    error = ends_with(write_task(here, "worker_a", first=only), here)
    assert isinstance(error, TaskError)
    assert "no GPU" in str(error)
    reading = write_task(here, "worker_b", read="raise ValueError('no such sensor')")
    assert "no such sensor" in str(ends_with(reading, here))


@pytest.mark.parametrize(
    ("read", "said"),
    [
        ("os.kill(os.getpid(), 9)", "killed (signal 9), as the kernel does when mem"),
        ("os.kill(os.getpid(), 11)", "crashed (signal 11)"),
        ("os._exit(3)", "ended by itself with exit code 3"),
    ],
)
def test_how_a_worker_died_is_told_apart(here: Path, read: str, said: str) -> None:
    name = f"worker_{len(read)}"
    error = ends_with(write_task(here, name, read=read), here)
    assert isinstance(error, RunError)
    assert said in str(error)
    assert "continues after the last complete round" in error.help


@pytest.mark.parametrize("how", ["piped", "script"])
def test_a_script_without_a_guard_and_a_program_from_a_pipe_simulate(
    here: Path, how: str
) -> None:
    """Workers do not run them again: they have nothing that a job needs."""
    done = python(SIMULATE.format(task=write_task(here, "own_task")), here, how=how)
    assert "rounds 2" in done.stdout, done.stderr


@pytest.mark.parametrize(
    ("how", "where"), [("piped", "this session"), ("script", "script.py")]
)
def test_a_task_that_lives_in_the_session_is_refused_before_anything_is_prepared(
    here: Path, how: str, where: str
) -> None:
    program = TASK.format(first="", read="pass") + SIMULATE.format(task="__main__:task")
    done = python(program, here, how=how)
    assert f"is defined in {where}" in done.stderr
    assert not (here / "run").exists()


def test_a_death_without_an_exit_code_blames_nobody() -> None:
    assert "memory" not in str(worker_died())
