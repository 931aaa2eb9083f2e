"""Boards without torch in a federation: real processes, a real broker, no torch."""

from __future__ import annotations

import json
import re
import sqlite3
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from databases import opened
from without_torch import boards_without_torch, python_without_torch

from device_profiles.memory import RUNTIME_WITHOUT_TORCH_MIB
from edge_sdk.datasets.partition import load_partition
from edge_sdk.kernels.library import unavailable_reason
from edge_sdk.tasks.batch import prepared
from edge_sdk.tasks.task import load_task

pytestmark = [
    pytest.mark.broker,
    pytest.mark.skipif(bool(unavailable_reason()), reason="no kernels here"),
]

Make = Callable[..., Any]
SMALL = ("pi-1", "pi-2")


def test_boards_warm_up_and_train_without_torch_beside_one_that_needs_it(
    federation: Make,
) -> None:
    fleet = federation(rounds=2)
    boards_without_torch(
        fleet, *SMALL, has="pi-2"
    )  # its orders bring the program of pi-1
    (fleet.folder / "state-pi-2").mkdir()
    program = fleet.folder / "state-pi-2" / "program.bin"
    program.write_bytes(b"the program of a run before")
    with (fleet.run / "run.toml").open("a") as file:
        file.write("[statistics]\ncollect = true\n")
    fleet.start("coordinator", "run", str(fleet.run))
    fleet.start_devices()
    fleet.wait(lambda: bool(devices_of(fleet)), "a first device")
    fleet.kill("coordinator")  # its answers are gone with it, and it asks again
    fleet.start("coordinator", "run", str(fleet.run))
    fleet.wait(lambda: fleet.rounds_done() > 0, "a first round")
    maps = {name: mapped(fleet.processes[name].pid) for name in (*SMALL, "orin-1")}
    assert fleet.wait_end() == 0, fleet.logs()
    found = fleet.summary()
    assert found["rounds_done"] == 2, fleet.logs()
    assert found["updates"] == {"0": 2, "1": 3, "2": 3}, fleet.logs()
    engines = {d["name"]: d["engine"] for d in found["devices"]}
    assert engines == {"pi-1": "program", "pi-2": "program", "orin-1": "masked"}
    assert found["scores"]["2"]["0.4"]["loss"] < 5  # guessing costs log 10
    assert (fleet.run / "program.bin").stat().st_size > 100
    data = [load_partition(fleet.folder / "data" / d) for d in (*SMALL, "orin-1")]
    targets = np.concatenate([examples.targets for examples in data])
    inputs = np.concatenate([examples.inputs for examples in data])
    with opened(fleet.run / "ledger.sqlite") as db:
        (kept,) = db.execute("SELECT value FROM meta WHERE key = 'statistics'")
        statistics = json.loads(kept[0])
        assert statistics["devices"] == ["orin-1", *SMALL]
        assert statistics["classes"] == np.bincount(targets, minlength=10).tolist()
        whole = prepared(load_task("digits"), inputs).numpy().astype(np.float64)
        assert np.mean(statistics["mean"]) == pytest.approx(whole.mean(), rel=1e-5)
        rows = db.execute("SELECT name, profile FROM devices").fetchall()
    told = {name: json.loads(profile)["runtime_mib"] for name, profile in rows}
    # A small process is told, so that a weak board is given what fits beside it.
    lean = RUNTIME_WITHOUT_TORCH_MIB
    assert told == {"pi-1": lean, "pi-2": None, "orin-1": None}
    assert {name for name, text in maps.items() if "libtorch" in text} <= {"orin-1"}
    said = (fleet.folder / "pi-2.log").read_text()
    assert "torch is not imported until an order needs it" in said
    assert "torch is imported" not in said
    assert program.read_bytes() == (fleet.run / "program.bin").read_bytes()
    masked = (fleet.folder / "orin-1.log").read_text()
    assert 'at the start: engine = "masked" in the settings' in masked
    for name in SMALL:
        assert fleet.wait_end(name) == 0, fleet.logs()
    # The program is kept, so the doctor can say what a step will take.
    done = subprocess.run(
        [python_without_torch(), "-m", "edge_sdk.cli", "doctor", "pi-1.toml"],
        capture_output=True, text=True, check=False, cwd=fleet.folder,
    )  # fmt: skip
    assert "memory plan: density 0.05: " in done.stdout, done.stderr


def mapped(pid: int) -> str:
    """The files that a process has mapped; nothing of one that has ended."""
    try:
        return Path(f"/proc/{pid}/maps").read_text()
    except (OSError, ProcessLookupError):
        return ""


def devices_of(fleet: Any) -> list[Any]:
    try:
        with opened(f"file:{fleet.run}/ledger.sqlite?mode=ro") as db:
            return db.execute("SELECT name FROM devices").fetchall()
    except sqlite3.Error:  # it is being made
        return []


@pytest.mark.parametrize(
    ("task", "said"),
    [
        (
            "edge_sdk.zoo.tasks.mnist_released:task",
            "task edge_sdk.zoo.tasks.mnist_released:task imports torch, which this "
            "machine does not have",
        ),
        ("mnist", ""),
        ("cifar10", ""),
    ],
)
def test_a_task_that_needs_torch_says_so_on_a_board_without(
    tmp_path: Path, task: str, said: str
) -> None:
    code = (
        "from edge_sdk import load_task\n"
        "from edge_sdk.errors import TaskError\n"
        f"try: load_task({task!r})\n"
        "except TaskError as error: print(error)\n"
    )
    done = subprocess.run(
        [python_without_torch(), "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == said


@pytest.mark.parametrize("verb", ["doctor", "profile"])
def test_a_board_without_torch_is_examined_and_measured(
    federation: Make, verb: str
) -> None:
    fleet = federation(rounds=1)
    boards_without_torch(fleet, "pi-1")
    more = ["--seconds", "5"] if verb == "profile" else []
    done = subprocess.run(
        [python_without_torch(), "-m", "edge_sdk.cli", verb, "pi-1.toml", *more],
        capture_output=True, text=True, check=False, cwd=fleet.folder,
    )  # fmt: skip
    if verb == "doctor":
        assert "engine: program: there is no torch, kernels" in done.stdout, done.stderr
        assert "examples: " in done.stdout
        assert "No module named" not in done.stdout + done.stderr
    else:
        assert done.returncode == 0, done.stderr
        (path,) = fleet.folder.glob("state-pi-1/*.toml")
        assert "no torch" in path.read_text()
        runtime = re.search(r"^runtime_mib = (\d+)$", path.read_text(), re.MULTILINE)
        assert runtime is not None
        assert int(runtime[1]) < 150  # torch alone takes more


def test_an_engine_of_torchs_is_refused_with_what_to_do(federation: Make) -> None:
    fleet = federation(rounds=1)
    fleet.pythons["pi-1"] = python_without_torch()
    fleet.start_device("pi-1")  # its settings say engine = "masked"
    assert fleet.wait_end("pi-1") != 0
    assert 'engine = "masked" computes by torch' in fleet.logs()
    assert "flash-edge[device]" in fleet.logs()


# Modules that compute by torch, or look at a torch module; a board has no need of them.
BY_TORCH = (
    "edge_sdk.program.capture",
    "edge_sdk.training.torch_engine", "edge_sdk.tasks.graph", "edge_sdk.zoo",
    "edge_sdk.models", "edge_sdk.torch_modules",
    *(f"edge_sdk.tasks.{name}" for name in (
        "batch", "casts", "cost", "example_check", "example_inputs", "layers",
        "metrics", "model_state", "parts.adapted_model", "parts.freeze",
        "parts.low_rank", "parts.run_task", "parts.start", "parts.statistics",
        "trace", "trial_step", "value_check")),
    *(f"edge_sdk.training.{name}" for name in (
        "accumulate", "masked", "scoring", "sgd", "step", "rules.swat")),
    "edge_sdk.datasets.rows", "edge_sdk.device.probe.steps",
    "edge_sdk.device.probe.torch_rates",
)  # fmt: skip
WALK = """
import importlib, pkgutil, edge_sdk
for found in pkgutil.walk_packages(edge_sdk.__path__, "edge_sdk.", lambda name: None):
    try:
        importlib.import_module(found.name)
    except ImportError as error:
        print(found.name, error)
"""


def test_every_other_module_is_imported_without_torch() -> None:
    run = [python_without_torch(), "-c", WALK]
    done = subprocess.run(run, capture_output=True, text=True, check=True)
    failed = [line for line in done.stdout.splitlines() if line]
    assert [line for line in failed if not line.startswith(BY_TORCH)] == []
    assert any(line.startswith("edge_sdk.training.masked") for line in failed)


BRANCHES = """
from edge_sdk import Task, by_name
from edge_sdk.zoo.tasks.digits import task as digits

task = Task(
    name="branches", model=by_name("branching:Net"), loss=digits.loss,
    train_data=digits.train_data, eval_data=digits.eval_data, input_shape=(1, 8, 8),
    prepare=digits.prepare, batch_size=32,
)
"""
BRANCHING = """
from torch import nn

class Net(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10))

    def forward(self, x):
        return super().forward(x if x.sum() > 0 else -x)
"""


def test_a_model_without_a_program_leaves_boards_without_torch_out_and_trains_on(
    federation: Make,
) -> None:
    fleet = federation(rounds=1)
    boards_without_torch(fleet, "pi-1")
    (fleet.folder / "branches.py").write_text(BRANCHES)
    (fleet.folder / "branching.py").write_text(BRANCHING)
    for path in (fleet.run / "run.toml", *fleet.folder.glob("*.toml")):
        text = path.read_text().replace('task = "digits"', 'task = "branches:task"')
        path.write_text(text.replace("wait_for = 3", "wait_for = 2"))
    fleet.start("coordinator", "run", str(fleet.run))
    fleet.start_device("pi-1")
    fleet.wait(lambda: "pi-1 cannot take part" in fleet.logs(), "its refusal")
    fleet.start_device("pi-2")
    fleet.start_device("orin-1")
    assert fleet.wait_end() == 0, fleet.logs()
    assert fleet.summary()["updates"] == {"0": 2, "1": 2}, fleet.logs()
    said = "this model no program: the model cannot be exported (branching.py:9)"
    for name in ("coordinator", "pi-1"):
        assert said in (fleet.folder / f"{name}.log").read_text()
    assert fleet.wait_end("pi-1") == 0, fleet.logs()  # it lived on to the end


NORMED = """
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations, weight_norm

class Standardised(nn.Conv1d):
    def forward(self, x):
        w = self.weight - self.weight.mean((1, 2), keepdim=True)
        w = w / (w.std((1, 2), keepdim=True) + 1e-5)
        return F.conv1d(x, w, self.bias, padding=1, groups=self.groups)

class Net(nn.Sequential):
    def __init__(self):
        super().__init__(
            nn.Flatten(1, 2), parametrizations.weight_norm(nn.Conv1d(8, 12, 3)),
            nn.ReLU(), Standardised(12, 12, 3, groups=4), nn.ReLU(),
            weight_norm(nn.Conv1d(12, 12, 3)), nn.ReLU(),
            nn.Flatten(), nn.Linear(48, 10))
"""


def test_computed_weights_train_without_torch_as_with_it(federation: Make) -> None:
    fleet = federation(rounds=2)
    boards_without_torch(fleet, *SMALL)
    (fleet.folder / "normed_task.py").write_text(
        BRANCHES.replace("branching:", "normed:").replace("branches", "normed")
    )
    (fleet.folder / "normed.py").write_text(NORMED)
    for path in (fleet.run / "run.toml", *fleet.folder.glob("*.toml")):
        text = path.read_text().replace('"digits"', '"normed_task:task"')
        path.write_text(text)
    fleet.start("coordinator", "run", str(fleet.run))
    fleet.start_devices()
    assert fleet.wait_end() == 0, fleet.logs()
    found = fleet.summary()
    assert found["updates"] == {"0": 2, "1": 3, "2": 3}, fleet.logs()
    engines = {d["name"]: d["engine"] for d in found["devices"]}
    assert engines == {"pi-1": "program", "pi-2": "program", "orin-1": "masked"}
    assert found["scores"]["2"]["0.4"]["loss"] < 3, fleet.logs()
