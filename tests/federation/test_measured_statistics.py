"""Rounds that recalibrate: strong devices measure the weak ones' networks, too."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import msgspec
import numpy as np
import pytest
import torch
from in_threads import run_around
from torch import nn

from coordinator.algorithms.load import load_algorithm
from coordinator.algorithms.mean import Model
from coordinator.ledger import open_ledger
from coordinator.server.loop import Server
from coordinator.settings import (
    CodecSettings,
    RunSettings,
    TrainingSettings,
    WarmUpSettings,
)
from coordinator.simulation.rounds import Simulation
from coordinator.simulation.settings import SimulationSettings
from coordinator.simulation.workers.engine import Engine
from coordinator.simulation.workers.process_pool import process_pool
from device_profiles import load_board
from edge_sdk.agent import Agent, Identity
from edge_sdk.datasets.partition import load_partition, save_partition
from edge_sdk.datasets.prepare import prepare_folders
from edge_sdk.storage.journal import Journal
from edge_sdk.tasks.task import load_task
from edge_sdk.training.runner import TaskRunner
from edge_sdk.transport.memory import MemoryBroker

OWN = {"a-1": 0.4, "b-1": 0.2, "c-1": 0.1}
LADDER = [0.1, 0.2, 0.4]
ROUNDS = 5  # of which the last three move no weight


def model() -> nn.Module:
    """Two convolutions with batch norm, and nothing else."""
    layers = (nn.Conv2d(1, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 16, 3))
    head = (nn.BatchNorm2d(16), nn.ReLU(), nn.Flatten(), nn.Linear(256, 10))
    return nn.Sequential(*layers, *head)


TASK = replace(load_task("digits"), model=model, dense_layers=frozenset({"7.weight"}))


def by_name(
    affordable: Mapping[str, float], densities: Sequence[float]
) -> Mapping[str, float]:
    return {device: OWN.get(device, min(densities)) for device in affordable}


ALGORITHM = replace(load_algorithm("flash-edge(epochs=0)"), assign=by_name)
TRAINING = TrainingSettings(max_steps=4, batch_size=8, recalibrate=3)
WARM_UP = WarmUpSettings(devices=2)
CODEC = CodecSettings(up="fp32", down="fp32", zstd=False)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """As in a simulation's workers: sums of two threads may round otherwise."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("data")
    found = prepare_folders(
        "digits", folder / "c", folder / "out", OWN, alpha=9.0, seed=1
    )
    for device in OWN:
        save_partition(found[device], load_partition(found[device]).take(slice(32)))
    return found


def simulated(folder: Path, data: dict[str, Path]) -> Simulation:
    folder.mkdir()
    settings = SimulationSettings(
        task="digits",
        folder=str(data["evaluation"].parent),
        densities=LADDER,
        rounds=ROUNDS,
        cohort=len(OWN),
        engine="masked",
        training=TRAINING,
        warm_up=WARM_UP,
        codec=CODEC,
    )
    folders = {device: data[device] for device in OWN}
    given = settings, folders, data["evaluation"]
    run = Simulation(folder, *given, task=TASK, algorithm=ALGORITHM)
    engine, evaluation = Engine("torch"), data["evaluation"]
    task = f"{__name__}:TASK"
    with process_pool(1, task, evaluation, engine) as pool:
        while not run.done:
            run.step(pool)
    return run


def test_a_federation_measures_as_a_simulation_does(
    tmp_path: Path, data: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    module = ModuleType("own_algorithm")
    module.mine = ALGORITHM  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "own_algorithm", module)
    ours = RunSettings(
        federation="measured",
        task="digits",
        evaluation=data["evaluation"],
        densities=LADDER,
        rounds=ROUNDS,
        algorithm="own_algorithm:mine",
        wait_for=3,
        training=TRAINING,
        warm_up=WARM_UP,
        codec=CODEC,
    )
    broker, scored = MemoryBroker(), TASK.eval_data(data["evaluation"])
    with closing(open_ledger(tmp_path / "run")) as ledger:
        server = Server(ours, TASK, scored, ledger, broker.connect)
        told = msgspec.to_builtins(load_board("raspberry_pi_4b_4gb"))
        agents = []
        for device in OWN:
            examples = TASK.train_data(data[device])
            runner = TaskRunner(TASK, examples, "masked")
            me = Identity(device, "measured", "digits", len(examples), told)
            journal = Journal(tmp_path / device)
            agents.append(Agent(me, broker.connect, journal, runner))
        assert run_around(server, agents) == []
        asked = {
            no: {task.device: task.density for task in ledger.tasks(no)}
            for no in range(1, ROUNDS + 1)
        }
    assert asked[1] == asked[2] == asked[3] == OWN
    assert asked[4] == {"a-1": 0.2, "b-1": 0.2, "c-1": 0.1}
    assert asked[5] == dict.fromkeys(OWN, 0.1)
    over_mqtt, run = server._global_model.model, simulated(tmp_path / "alone", data)
    assert over_mqtt is not None
    assert run.model is not None
    same_bits(run.model, over_mqtt)


def same_bits(one: Model, other: Model) -> None:
    assert set(one.norms) == set(other.norms)
    assert len(one.norms) == len(LADDER)
    pairs = [(one.masked, other.masked), (one.dense, other.dense)]
    pairs += [(one.norms[mask], other.norms[mask]) for mask in one.norms]
    for mine, theirs in pairs:
        assert set(mine) == set(theirs)
        for name in mine:
            np.testing.assert_array_equal(mine[name], theirs[name])
