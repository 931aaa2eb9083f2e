"""Statistics of the devices' examples go into the model before anything is trained."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from in_threads import run_around
from torch import nn

import coordinator
import export
from coordinator.ledger import open_ledger
from coordinator.server.loop import Server
from coordinator.settings import (
    CodecSettings,
    RunSettings,
    StatisticsSettings,
    TrainingSettings,
)
from device_profiles import load_board
from edge_sdk.agent import Agent, Identity
from edge_sdk.checkpoint import load_checkpoint
from edge_sdk.errors import SettingsError
from edge_sdk.storage.journal import Journal
from edge_sdk.tasks.task import Examples, Task
from edge_sdk.training.runner import TaskRunner
from edge_sdk.transport.memory import MemoryBroker
from edge_sdk.wire.messages import DataDescribed, DescribeData

DEVICES = ("pi-1", "pi-2", "pi-3", "pi-4")


class Standardised(nn.Module):
    """Sensors whose scale nobody knows beforehand, and a prior over three classes."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(4))
        self.register_buffer("deviation", torch.ones(4))
        self.register_buffer("prior", torch.full((3,), 1 / 3))
        self.fc = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = self.fc((x - self.mean) / self.deviation)
        return scores + 0.0 * self.prior


TASK = Task(
    name="sensors",
    model=Standardised,
    loss=nn.functional.cross_entropy,
    input_shape=(4,),
    labels=("idle", "walk", "run"),
    statistics={"mean": "mean", "deviation": "deviation", "prior": "classes"},
)


def sensors(seed: int, count: int = 60) -> Examples:
    rng = np.random.default_rng(seed)
    targets = rng.choice(3, count, p=[0.2, 0.3, 0.5])
    inputs = rng.normal(targets[:, None], 1.0, (count, 4)) * [1, 10, 1e3, 0] + 5e3
    return Examples(inputs.astype(np.float32), targets)


def settings(**changes: Any) -> RunSettings:
    plain = RunSettings(
        federation="tests",
        task="digits",
        evaluation=None,
        densities=[0.5],
        rounds=1,
        algorithm="erk",
        wait_for=4,
        training=TrainingSettings(max_steps=3),
        codec=CodecSettings(up="fp32", down="fp32", zstd=False),
    )
    return msgspec.structs.replace(plain, **changes)


def run(
    folder: Path,
    ours: RunSettings,
    tells: Callable[[str, DataDescribed], DataDescribed] = lambda _, told: told,
    task: Task = TASK,
) -> dict[str, Any]:
    """Runs it to its end; returns what the ledger has of statistics."""
    broker, agents = MemoryBroker(), []
    for number, name in enumerate(DEVICES):
        examples = sensors(number)
        runner = TaskRunner(task, examples, "masked")

        def describe(
            order: DescribeData,
            stop: Callable[[], bool],
            name: str = name,
            runner: TaskRunner = runner,
        ) -> DataDescribed:
            return tells(name, runner.tester.describe(order, stop))

        runner.describe = describe
        profile = msgspec.to_builtins(load_board("raspberry_pi_4b_4gb"))
        me = Identity(name, ours.federation, "digits", len(examples), profile)
        agents.append(Agent(me, broker.connect, Journal(folder / name), runner))
    with closing(open_ledger(folder / "run")) as ledger:
        server = Server(ours, task, None, ledger, broker.connect)
        assert run_around(server, agents) == []
        found: dict[str, Any] = ledger.get("statistics")
    return found


def simulated(folder: Path, **more: Any) -> coordinator.Run:
    """A round of four devices in a simulation."""
    return coordinator.simulate(
        TASK,
        devices=[sensors(n) for n in range(4)],
        evaluation=sensors(9),
        algorithm="erk",
        rounds=1,
        densities=[0.5],
        training={"max_steps": 3},
        folder=folder,
        **more,
    )


def test_the_model_begins_with_the_statistics_of_all_devices_and_keeps_them(
    tmp_path: Path,
) -> None:
    found = run(tmp_path, settings())
    everything = [sensors(n) for n in range(4)]
    inputs = np.concatenate([e.inputs for e in everything]).astype(np.float64)
    classes = np.bincount(np.concatenate([e.targets for e in everything]))
    assert found["devices"] == list(DEVICES)
    np.testing.assert_allclose(found["mean"], inputs.mean(axis=0))
    np.testing.assert_allclose(found["deviation"], inputs.std(axis=0))
    assert found["classes"] == classes.tolist()
    path = tmp_path / "run" / "models" / "density-0.5.safetensors"
    state = load_checkpoint(path).dense
    np.testing.assert_allclose(state["mean"], inputs.mean(axis=0), rtol=1e-6)
    assert state["deviation"][3] == 1.0  # a number that never changes
    np.testing.assert_allclose(state["prior"], classes / classes.sum(), rtol=1e-6)


def test_a_program_and_an_export_have_the_statistics_as_torch_has(
    tmp_path: Path,
) -> None:
    """The program and the file have what the devices said, not what capture saw."""
    models = {}
    for engine in ("torch", "program"):
        # The engine "program" is refused where the model has none.
        simulated(tmp_path / engine, engine=engine)
        path = tmp_path / engine / "checkpoints" / "round-00001.safetensors"
        models[engine] = load_checkpoint(path).state()
    whole = np.concatenate([sensors(n).inputs for n in range(4)]).astype(np.float64)
    np.testing.assert_allclose(models["program"]["mean"], whole.mean(axis=0))
    for name, value in models["torch"].items():
        np.testing.assert_allclose(models["program"][name], value, rtol=1e-4, atol=1e-5)
    net = Standardised()
    net.load_state_dict({n: torch.tensor(a) for n, a in models["program"].items()})
    inputs = sensors(7).inputs[:1]
    with torch.no_grad():
        expected = net.eval()(torch.tensor(inputs)).numpy()
    assert abs(expected).max() < 50  # of raw sensors they would be thousands
    for kind, suffix in (("onnx-sparse", "onnx"), ("native", "flsp")):
        out = tmp_path / f"model.{suffix}"
        given = {"input_shape": (4,), "calibration": sensors(8).inputs}
        export.build(net, out, format=kind, **given)
        found = export.load(out)(inputs)
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)


def test_a_device_that_lies_or_fails_is_named_and_the_run_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def tells(name: str, told: DataDescribed) -> DataDescribed:
        if name == "pi-2":
            data = msgspec.structs.replace(told.data, mean=[math.nan] * 4)
            return msgspec.structs.replace(told, data=data)
        if name == "pi-3":
            return DataDescribed(told.id, why="the disk is full")
        return told

    found = run(tmp_path, settings(), tells)
    assert found["devices"] == ["pi-1", "pi-4"]
    assert "not finite" in found["refused"]["pi-2"]
    assert found["refused"]["pi-3"] == "the disk is full"
    assert "the statistics of pi-2 do not count" in caplog.text
    honest = np.concatenate([sensors(n).inputs for n in (0, 3)]).astype(np.float64)
    np.testing.assert_allclose(found["mean"], honest.mean(axis=0))


def test_a_run_collects_them_by_its_settings_alone_and_a_simulation_has_the_same(
    tmp_path: Path,
) -> None:
    asked = StatisticsSettings(collect=True, bins=4, low=0.0, high=1e4)
    plain = replace(TASK, statistics={})
    found = run(tmp_path, settings(statistics=asked), task=plain)
    assert len(found["histogram"]) == 6
    assert sum(found["histogram"]) == 4 * 60 * 4
    played = simulated(tmp_path / "simulated", statistics={"bins": 4, "high": 1e4})
    assert played.statistics is not None
    assert played.statistics["histogram"] == found["histogram"]
    whole = np.concatenate([sensors(n).inputs for n in range(4)]).astype(np.float64)
    np.testing.assert_allclose(played.statistics["mean"], whole.mean(axis=0))


def test_a_private_run_refuses_to_collect_statistics(tmp_path: Path) -> None:
    from coordinator.algorithms.privacy import PrivacySettings

    private = PrivacySettings(noise_multiplier=1.0)
    broker = MemoryBroker()
    with (
        closing(open_ledger(tmp_path / "run")) as ledger,
        pytest.raises(SettingsError, match="statistics"),
    ):
        Server(settings(privacy=private), TASK, None, ledger, broker.connect)
