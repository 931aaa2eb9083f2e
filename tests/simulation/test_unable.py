"""A simulated device that cannot train is out, by name; the others' rounds go on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 - its usual name

from coordinator.simulation.run import load_simulation, simulate
from coordinator.simulation.settings import SimulationSettings, WarmUpSettings
from coordinator.simulation.workers.engine import Engine, engine_for
from coordinator.simulation.workers.interface import (
    ChunkScore,
    EvaluationChunk,
    TrainingJob,
)
from coordinator.simulation.workers.jobs import JobRunner
from edge_sdk.datasets.partition import save_partition
from edge_sdk.errors import DataError, EdgeError, EngineError, RunError, StateError
from edge_sdk.tasks import Examples, Task, load_task
from edge_sdk.training.update import PackedUpdate

TASK = """from functools import partial
from torch import nn
from torch.nn import functional as F
from edge_sdk.tasks import Task
from edge_sdk.datasets.partition import load_partition

def model():
    norm = nn.BatchNorm1d(64)
    return nn.Sequential(nn.Linear(16, 64), norm, nn.ReLU(), nn.Linear(64, 4))

task = Task(name="bn", model=model, loss=F.cross_entropy, train_data=load_partition,
            eval_data=partial(load_partition, part="eval"), input_shape=(16,))
"""


def some(count: int) -> Examples:
    rng = np.random.default_rng(count)
    return Examples(
        rng.normal(size=(count, 16)).astype(np.float32), rng.integers(0, 4, count)
    )


@pytest.mark.parametrize("broker", ["", "mqtt"])
def test_one_example_under_batch_norm_ends_no_run(tmp_path: Path, broker: str) -> None:
    """The warm-up draws it first; then it is never asked again."""
    (tmp_path / "lone.py").write_text(TASK)
    for name, count in (("full", 60), ("odd", 33), ("lone", 1)):
        save_partition(tmp_path / "data" / name, some(count))
    save_partition(tmp_path / "data/evaluation", some(40), part="eval")
    (tmp_path / "sim.toml").write_text(
        'task = "lone:task"\nfolder = "data"\ndensities = [0.4]\nrounds = 4\n'
        "cohort = 3\nseed = 1\n[warm_up]\ndevices = 2\nepochs = 1\n"
    )
    done = subprocess.run(
        [
            *(sys.executable, "-m", "coordinator.cli", "simulate", "run"),
            *("--settings", "sim.toml", "--workers", "1"),
            *(("--transport", broker) if broker else ()),
        ],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = (tmp_path / "run/metrics.jsonl").read_text().splitlines()
    rounds = [json.loads(line) for line in lines]
    assert [r["round"] for r in rounds] == [0, 1, 2, 3, 4]
    assert sum("lone" in r.get("unable", {}) for r in rounds) == 1
    assert all(r["accepted"] == ["full", "odd"] for r in rounds if r["round"] > 1)
    assert "lone cannot train and is not asked again" in done.stderr
    assert "is batch norm, which cannot train on one example" in done.stderr


def test_a_model_without_a_program_trains_by_torch_unless_one_is_asked_for(
    tmp_path: Path,
) -> None:
    task = Task(
        name="products",
        model=Products,
        loss=F.cross_entropy,
        train_data=lambda _: some(2),
        eval_data=lambda _: some(2),
        input_shape=(16,),
    )
    assert engine_for(task, "auto", some(5), tmp_path) == Engine("torch")
    with pytest.raises(EngineError, match="logcumsumexp"):
        engine_for(task, "program", some(5), tmp_path)
    assert not [*tmp_path.iterdir()]
    able = replace(task, model=lambda: nn.Linear(16, 4))
    assert engine_for(able, "masked", some(5), tmp_path) == Engine("torch")
    found = engine_for(able, "sparse", some(5), tmp_path)  # as 0.1.0 called it
    assert found.name == "program"
    (kept,) = tmp_path.iterdir()
    assert kept.read_bytes() == found.program
    kept.write_bytes(found.program[:-1])  # damaged: made again
    assert engine_for(able, "auto", some(5), tmp_path) == found


class Products(nn.Module):
    """Of an operation that no program has."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(16, 4)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.linear(inputs).logcumsumexp(dim=1)


VOID = """from functools import partial
from torch import nn
from torch.nn import functional as F
from edge_sdk.tasks import Task
from edge_sdk.datasets.partition import load_partition

task = Task(name="void", model=lambda: nn.Linear(16, 4),
            loss=partial(F.cross_entropy, ignore_index=0), train_data=load_partition,
            eval_data=partial(load_partition, part="eval"), input_shape=(16,))
"""


class Here:
    """A worker in this process."""

    def __init__(self, task: Task, evaluation: Path, engine: Engine) -> None:
        self.task = task
        self.runner = JobRunner(task, task.read_eval(evaluation), engine)

    def train(self, work: TrainingJob) -> Future[PackedUpdate]:
        done: Future[PackedUpdate] = Future()
        try:
            examples = self.task.read_train(work.folder)
            done.set_result(self.runner.train(work, examples))
        except EdgeError as error:
            done.set_exception(error)
        return done

    def score(self, chunk: EvaluationChunk) -> Future[ChunkScore]:
        done: Future[ChunkScore] = Future()
        done.set_result(self.runner.score(chunk))
        return done


@contextmanager
def here(
    _: int, task: str, evaluation: Path, engine: Engine, *, partitions: bool
) -> Iterator[Here]:
    assert not partitions
    yield Here(load_task(task), evaluation, engine)


def void_fleet(folder: Path, sound: int) -> SimulationSettings:
    """Some devices, and one whose targets are all passed over: a mean of nothing."""
    (folder / "void_targets.py").write_text(VOID)
    nothing = Examples(some(8).inputs, np.zeros(8, np.int64))
    for number in range(sound):
        save_partition(folder / f"data/sound-{number}", some(40 + number))
    save_partition(folder / "data/passed-over", nothing)
    save_partition(folder / "data/evaluation", some(30), part="eval")
    return SimulationSettings(
        task="void_targets:task",
        folder=str(folder / "data"),
        densities=[0.4],
        rounds=2,
        cohort=sound + 1,
        engine="torch",
        warm_up=WarmUpSettings(devices=1, epochs=1),
    )


def test_a_device_whose_loss_is_not_finite_is_refused_and_the_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = void_fleet(tmp_path, sound=2)
    monkeypatch.syspath_prepend(tmp_path)
    records = simulate(tmp_path / "run", settings, worker_count=1, open_workers=here)
    assert [r.round for r in records] == [0, 1, 2]
    for record in records[1:]:
        assert record.accepted == ["sound-0", "sound-1"]
        assert "loss of task void is not finite" in record.refused["passed-over"]


def test_rounds_without_an_update_that_passes_end_the_run_and_say_whose(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = void_fleet(tmp_path, sound=0)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(RunError, match=r"5 rounds in a row.*passed-over: .*not finite"):
        simulate(tmp_path / "run", settings, worker_count=1, open_workers=here)


def test_other_examples_beside_the_old_ones_are_another_run(tmp_path: Path) -> None:
    """Else the finished run's figures are printed for examples it never saw."""
    run, first, second = (tmp_path / n for n in ("run", "first", "second"))
    run.mkdir()
    first.mkdir()
    settings = SimulationSettings(
        task="digits", folder=str(first), densities=[0.4], rounds=1, engine="torch"
    )
    (run / "settings.json").write_bytes(msgspec.json.encode(settings))
    other = msgspec.structs.replace(settings, folder=str(second))
    with pytest.raises(StateError, match="other settings: folder"):
        simulate(run, other, worker_count=1, open_workers=here)
    first.rename(second)  # renamed: the same examples, and only they are missing now
    with pytest.raises(DataError, match="not a folder of devices"):
        simulate(run, other, worker_count=1, open_workers=here)


def test_settings_are_written_once_and_again_only_for_examples_that_moved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = void_fleet(tmp_path, sound=2)
    monkeypatch.syspath_prepend(tmp_path)
    run, file = tmp_path / "run", tmp_path / "run/settings.json"
    simulate(run, settings, worker_count=1, open_workers=here)
    before = file.stat()
    simulate(run, settings, worker_count=1, open_workers=here)
    assert (file.stat().st_ino, file.stat().st_mtime_ns) == (
        before.st_ino,
        before.st_mtime_ns,
    )
    (tmp_path / "data").rename(tmp_path / "moved")
    moved = msgspec.structs.replace(settings, folder=str(tmp_path / "moved"))
    simulate(run, moved, worker_count=1, open_workers=here)
    assert load_simulation(run) == msgspec.structs.replace(moved, engine="torch")


def test_a_run_begun_without_bounds_goes_on_without_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its folder says nothing of a gate; half of a run would count otherwise."""
    settings = void_fleet(tmp_path, sound=2)
    monkeypatch.syspath_prepend(tmp_path)
    run = tmp_path / "run"
    run.mkdir()
    raw = msgspec.to_builtins(msgspec.structs.replace(settings, engine="torch"))
    del raw["gate"], raw["aggregate"]
    raw["alpha"] = 1.0
    (run / "settings.json").write_bytes(msgspec.json.encode(raw))
    simulate(run, settings, worker_count=1, open_workers=here)
    assert "gate" not in msgspec.json.decode((run / "settings.json").read_bytes())
    known = load_simulation(run)
    assert known is not None
    assert (known.gate.clip, known.gate.weight, known.gate.influence) == (0, 0, 0)


def _not_a_number(_: Path) -> Examples:
    inputs = some(20).inputs.copy()
    inputs[7, 3] = np.nan
    return Examples(inputs, some(20).targets)


def _out_of_range(_: Path) -> Examples:
    return Examples(some(20).inputs, some(20).targets + 9)


def _other_shape(_: Path) -> Examples:
    return Examples(some(20).inputs[:, :9], some(20).targets)


def _float_targets(_: Path) -> Examples:
    return Examples(some(20).inputs, some(20).targets + 0.5)


BAD = {
    "a-nan": (_not_a_number, "hold a NaN"),
    "b-range": (_out_of_range, "targets are int64 from 9 to"),
    "c-shape": (_other_shape, r"shape (9,)"),
    "d-float": (_float_targets, "float64"),
}


def unusable_fleet(folder: Path, sound: int) -> SimulationSettings:
    """Some sound devices, one of each bad kind, a damaged file and no file."""
    settings = void_fleet(folder, sound)
    for name, (make, _) in BAD.items():
        save_partition(folder / "data" / name, make(folder))
    (folder / "data/e-damaged").mkdir()
    (folder / "data/e-damaged/train.npz").write_bytes(b"PK\3\4 cut short")
    (folder / "data/f-nothing").mkdir()
    for file in (folder / "data/passed-over").iterdir():
        file.unlink()
    (folder / "data/passed-over").rmdir()
    warm_up = WarmUpSettings(devices=4, epochs=1)
    return msgspec.structs.replace(settings, warm_up=warm_up, cohort=sound + 4)


def test_devices_whose_examples_cannot_be_used_are_refused_and_the_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    settings = unusable_fleet(tmp_path, sound=2)
    monkeypatch.syspath_prepend(tmp_path)
    run = tmp_path / "run"
    records = simulate(run, settings, worker_count=1, open_workers=here)
    said = {**{d: why for d, (_, why) in BAD.items()}, "e-damaged": "is damaged"}
    said["f-nothing"] = "holds no train.npz"
    assert sorted(records[0].unable) == sorted(said)
    for device, why in said.items():
        assert why in records[0].unable[device]
        assert f"{device} cannot train and is not asked again" in caplog.text
    assert records[0].asked <= 2
    for record in records[1:]:
        assert (record.asked, record.unable) == (2, {})
        assert record.accepted == ["sound-0", "sound-1"]
        assert record.scores


def test_a_device_whose_examples_become_unusable_is_refused_in_the_next_round(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = void_fleet(tmp_path, sound=3)
    monkeypatch.syspath_prepend(tmp_path)
    run = tmp_path / "run"
    simulate(run, settings, worker_count=1, open_workers=here)
    lines = (run / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    (run / "metrics.jsonl").write_bytes(b"".join(lines[:-1]))
    save_partition(tmp_path / "data/sound-1", _not_a_number(tmp_path))
    last = simulate(run, settings, worker_count=1, open_workers=here)[-1]
    assert (last.round, last.accepted) == (2, ["sound-0", "sound-2"])
    assert "hold a NaN" in last.unable["sound-1"]


def test_a_fleet_without_one_usable_device_ends_at_once_with_the_first_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = unusable_fleet(tmp_path, sound=0)
    monkeypatch.syspath_prepend(tmp_path)
    said = r"device a-nan cannot train \(and none of 5 others can\): .*hold a NaN"
    with pytest.raises(DataError, match=said):
        simulate(tmp_path / "run", settings, worker_count=1, open_workers=here)
    assert not (tmp_path / "run/metrics.jsonl").exists()
