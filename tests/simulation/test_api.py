"""`coordinator.simulate`: objects in memory, the bits of the command line."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

import coordinator
from coordinator.checkpoints.models import model_name
from coordinator.simulation.record import read_records
from coordinator.simulation.run import load_simulation
from edge_sdk import DataError, DensityError, Examples, SettingsError, Task, TaskError
from edge_sdk.errors import EdgeError, StateError

TASK = """
import numpy as np
from torch import nn
from torch.nn import functional as F
from edge_sdk import Examples, Task
import coordinator

def model():
    return nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 4))

task = Task(name="blobs", model=model, loss=F.cross_entropy, input_shape=(16,))
mine = coordinator.erk_frozen()
"""
MAIN = """
import dataclasses

def blobs(count, seed):
    rng = np.random.default_rng(seed)
    kinds = rng.integers(0, 4, count)
    return Examples(np.eye(4, 16)[kinds].astype(np.float32), kinds)

def plain_mean(base, contributions):
    return coordinator.fedavg().aggregate(base, contributions)

mine = dataclasses.replace(mine, name="mine", aggregate=plain_mean)
run = coordinator.simulate(
    task, devices=[blobs(24, seed) for seed in range(2)], evaluation=blobs(24, 9),
    algorithm=mine, rounds=2, densities=[0.25], folder="run", workers={workers},
)
weights = [p for p in run.model(0.25).parameters() if p.ndim > 1]
print(*run.history["round"], sum(int((w != 0).sum()) for w in weights))
"""
SIM = """
task = "{module}:task"
folder = "{folder}"
partitions = true
densities = [0.2, 0.5]
rounds = 2
cohort = 2
algorithm = "{module}:mine"
"""


def blobs(count: int, seed: int) -> Examples:
    rng = np.random.default_rng(seed)
    kinds = rng.integers(0, 4, count)
    noise = rng.normal(0, 0.3, (count, 16))
    return Examples((np.eye(4, 16)[kinds] + noise).astype(np.float32), kinds)


def model() -> nn.Module:
    return nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 4))


TASK_HERE = Task(
    name="blobs", model=model, loss=nn.functional.cross_entropy, input_shape=(16,)
)
PARTS, SCORED = [blobs(24, seed) for seed in range(2)], blobs(40, 9)

Play = Callable[..., coordinator.Run]


@pytest.fixture
def play(tmp_path: Path) -> Play:
    def played(**changes: Any) -> coordinator.Run:
        given: dict[str, Any] = {
            "task": TASK_HERE,
            "devices": PARTS,
            "evaluation": SCORED,
            "algorithm": coordinator.erk_frozen(),
            "rounds": 2,
            "densities": [0.2, 0.5],
            "folder": tmp_path / "run",
        }
        given |= changes
        return coordinator.simulate(given.pop("task"), **given)

    return played


def noisy() -> nn.Module:
    return nn.Sequential(
        nn.Linear(16, 32), nn.ReLU(), nn.Dropout(0.3), nn.Linear(32, 4)
    )


def test_a_network_with_dropout_gives_the_same_bits_after_other_draws(
    play: Play, tmp_path: Path
) -> None:
    task, weights = replace(TASK_HERE, name="noisy", model=noisy), []
    for folder in ("a", "b"):
        torch.seed()
        run = play(task=task, folder=tmp_path / folder, workers=0)
        weights.append(run.model(0.5).state_dict())
    assert weights[0].keys() == weights[1].keys()
    for name, tensor in weights[0].items():
        assert torch.equal(tensor, weights[1][name]), name


def test_arrays_and_a_module_become_a_history_and_models(
    play: Play, tmp_path: Path
) -> None:
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    run = play()
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.get_rng_state(), state)
    history = run.history
    assert history["round"].tolist() == [0, 1, 2]
    for name in ("loss", "bytes_up", "bytes_down", "accuracy@0.2", "loss@0.5"):
        assert history[name].shape == (3,)
    assert (np.diff(history["bytes_up"]) > 0).all()
    for density in (0.2, 0.5):
        found = run.model(density)
        weights = torch.cat([found[0].weight.ravel(), found[2].weight.ravel()])
        assert int((weights != 0).sum()) == int(density * len(weights))
        with torch.no_grad():
            right = found(torch.from_numpy(SCORED.inputs)).argmax(1).numpy()
        assert np.mean(right == SCORED.targets) == pytest.approx(
            history[f"accuracy@{density}"][-1]
        )
    with pytest.raises(DensityError, match=r"no model of density 0\.3"):
        run.model(0.3)
    assert run.folder == tmp_path / "run"
    assert (run.folder / "data").stat().st_mode & 0o077 == 0


def test_the_same_call_goes_on_and_other_examples_are_refused(
    play: Play, tmp_path: Path
) -> None:
    whole = play(folder=tmp_path / "whole", rounds=2)
    lines = (whole.folder / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    (whole.folder / "metrics.jsonl").write_bytes(b"".join(lines[:2]))  # round 2 is lost
    again = play(folder=whole.folder)
    assert again.history["accuracy@0.2"][-1] == whole.history["accuracy@0.2"][-1]
    for change, says in (
        ({"devices": [PARTS[0], blobs(24, 5)]}, "other inputs of device-00001"),
        ({"devices": PARTS[:1]}, "2 devices, not 1"),
        ({"evaluation": blobs(41, 9)}, "of evaluation"),
        ({"seed": 2}, "other settings: seed"),
        ({"algorithm": coordinator.fedavg()}, "other settings: algorithm"),
    ):
        with pytest.raises(StateError, match=says):
            play(folder=whole.folder, **change)


def test_the_command_line_gives_the_same_bits_and_takes_an_algorithm_by_reference(
    play: Play, tmp_path: Path
) -> None:
    """On worker processes there, in this process here."""
    here = play()
    module = "blobs_of_the_command_line"
    (tmp_path / f"{module}.py").write_text(TASK, encoding="utf-8")
    text = SIM.format(module=module, folder=here.folder / "data")
    (tmp_path / "sim.toml").write_text(text, encoding="utf-8")
    command = ["simulate", "there", "--settings", "sim.toml", "--workers", "1"]
    program = "from coordinator.cli import main; main()"
    ended = subprocess.run(
        [sys.executable, "-c", program, *command],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    for no in (1, 2):
        mine, theirs = (
            (folder / "checkpoints" / model_name(no)).read_bytes()
            for folder in (here.folder, tmp_path / "there")
        )
        # The header names the task, so its length differs; the tensors follow it.
        cut = [8 + int.from_bytes(b[:8], "little") for b in (mine, theirs)]
        assert mine[cut[0] :] == theirs[cut[1] :]
    for one, other in zip(here.records, read_records(tmp_path / "there"), strict=True):
        assert (one.loss, one.scores) == (other.loss, other.scores)
        assert (one.total_up, one.total_down) == (other.total_up, other.total_down)
    kept = load_simulation(tmp_path / "there")
    assert kept is not None
    assert kept.algorithm == f"{module}:mine"


def ran(folder: Path, text: str) -> subprocess.CompletedProcess[str]:
    """A program read from a pipe, as from a notebook: no file could be imported."""
    return subprocess.run(
        [sys.executable, "-"],
        input=text,
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_task_and_an_algorithm_of_main_train_in_this_process(tmp_path: Path) -> None:
    ended = ran(tmp_path, TASK + MAIN.format(workers=0))
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.split() == ["0", "1", "2", "160"]


def test_workers_refuse_a_task_of_main_by_name(tmp_path: Path) -> None:
    ended = ran(tmp_path, TASK + MAIN.format(workers=1))
    assert ended.returncode != 0
    assert "task 'blobs' (__main__:task) is defined in this process only" in (
        ended.stderr
    )
    assert not (tmp_path / "run").exists()


def test_a_task_made_in_a_function_is_none_that_workers_can_import(play: Play) -> None:
    with pytest.raises(TaskError, match="blobs") as caught:
        play(task=replace(TASK_HERE), workers=2)
    assert "workers=0" in caught.value.help


@pytest.mark.parametrize(
    ("change", "kind", "says"),
    [
        ({"task": "blobs"}, TaskError, "neither one of"),
        ({"task": model}, TaskError, "task is a function"),
        ({"devices": []}, DataError, "devices is empty"),
        ({"devices": PARTS[0]}, DataError, "devices is one Examples"),
        (
            {"devices": [PARTS[0], (1, 2)]},
            DataError,
            r"devices\[1\]: inputs are a single number",
        ),
        ({"devices": [PARTS[0], {"share": 1}]}, DataError, r"devices\[1\] is a dict"),
        ({"devices": 4}, DataError, "no data set of its name"),
        (
            {"task": replace(TASK_HERE, model=model())},
            TaskError,
            "model is a Sequential, not a function",
        ),
        (
            {"task": replace(TASK_HERE, loss=nn.CrossEntropyLoss)},
            TaskError,
            "loss is the class CrossEntropyLoss",
        ),
        (
            {"devices": [(PARTS[0].inputs, np.array(["a"] * 24))]},
            DataError,
            r"devices\[0\]: targets are text",
        ),
        ({"evaluation": None}, DataError, "evaluation is None"),
        ({"algorithm": "flahs"}, SettingsError, "none of"),
        ({"algorithm": coordinator.flash}, SettingsError, "call it"),
        ({"rounds": 0}, SettingsError, r"rounds"),
        ({"densities": 0.1}, SettingsError, r"densities"),
        ({"densities": [1.5]}, DensityError, "1.5"),
        ({"training": {"rat": 0.1}}, SettingsError, r"rat"),
        ({"round": 3}, SettingsError, "round"),
        ({"workers": -1}, SettingsError, "workers is -1"),
        ({"workers": "all"}, SettingsError, "workers is 'all'"),
        ({"folder": 5}, SettingsError, "folder is 5, which is no path"),
        ({"folder": "a\0b"}, SettingsError, "which is no path"),
        ({"workers": None}, SettingsError, "workers is None"),
        (
            {"task": replace(TASK_HERE, loss=lambda *_: sys.exit(4))},
            TaskError,
            "SystemExit: 4",
        ),
        ({"cohort": 3}, SettingsError, "there are 2 devices"),
    ],
)
def test_a_wrong_argument_is_named_before_anything_trains(
    play: Play, change: dict[str, Any], kind: type[EdgeError], says: str
) -> None:
    with pytest.raises(kind, match=says):
        play(**change)


def test_a_wrong_slot_is_named_before_anything_is_written(
    play: Play, tmp_path: Path
) -> None:
    wrong = replace(coordinator.flash(), aggregate=lambda updates: updates)
    with pytest.raises(SettingsError, match="slot aggregate takes"):
        play(algorithm=wrong)
    assert not (tmp_path / "run").exists()


def test_examples_may_be_pairs_and_data_sets_of_any_dtype(play: Play) -> None:
    x, y = PARTS[1].inputs, PARTS[1].targets
    data = TensorDataset(torch.from_numpy(x).double(), torch.from_numpy(y))
    given = play(
        devices=[(PARTS[0].inputs.tolist(), PARTS[0].targets.astype(float)), data],
        evaluation=(SCORED.inputs, SCORED.targets),
        rounds=1,
    )
    assert np.isfinite(given.history["accuracy@0.2"][-1])
    with pytest.raises(DataError, match=r"devices\[0\] has no targets"):
        play(devices=[TensorDataset(torch.from_numpy(x))], rounds=1)


def test_numbers_may_be_numpys(play: Play) -> None:
    run = play(
        densities=np.array([0.2, 0.5]),
        rounds=np.int64(1),
        seed=np.uint8(3),
        training={"rate": np.float32(0.5)},
    )
    assert (run.settings.seed, run.settings.densities) == (3, [0.2, 0.5])
    assert run.settings.training.rate == 0.5


def test_a_shipped_data_set_is_cut_up_for_a_fleet_of_rows(
    tmp_path: Path, cache: Path
) -> None:
    run = coordinator.simulate(
        "digits",
        devices=[{"share": 0.5, "density": 0.2}, {"share": 0.5, "density": 0.1}],
        algorithm="hetero-flash-released",
        densities=(0.1, 0.2),
        rounds=1,
        cohort=2,
        warm_up={"devices": 2, "epochs": 1, "max_steps": 2},
        training=coordinator.TrainingSettings(max_steps=2),
        folder=tmp_path / "run",
        cache=cache,
    )
    assert run.settings.devices == 100
    assert [g.density for g in run.settings.fleet] == [0.2, 0.1]
    assert run.history["round"].tolist() == [0, 1]


def test_a_picture_has_a_line_per_density(play: Play) -> None:
    pytest.importorskip("matplotlib")
    from matplotlib.figure import Figure

    axes = play().plot(Figure().add_subplot())
    assert [line.get_label() for line in axes.get_lines()] == [
        "erk, d = 0.5",
        "erk, d = 0.2",
    ]


def test_without_pandas_a_history_says_so(
    play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    history = play().history
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(EdgeError, match="pandas is not installed"):
        history.to_pandas()
