"""Every algorithm in a whole federation over MQTT, and the same model in simulation."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from in_threads import run_around

from coordinator.algorithms import ALGORITHMS
from coordinator.algorithms.load import load_algorithm
from coordinator.algorithms.mean import Model
from coordinator.broker.start import Broker, open_broker
from coordinator.ledger import open_ledger
from coordinator.server.global_model import GlobalModel
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
from coordinator.simulation.workers.interface import Workers
from coordinator.simulation.workers.process_pool import process_pool
from device_profiles import load_board
from edge_sdk.agent import Agent, Identity
from edge_sdk.datasets.partition import load_partition, save_partition
from edge_sdk.datasets.prepare import prepare_folders
from edge_sdk.storage.journal import Journal
from edge_sdk.tasks.task import load_task
from edge_sdk.training.runner import TaskRunner
from edge_sdk.transport.address import Address
from edge_sdk.transport.mqtt import MqttTransport

DEVICES = ("a-1", "b-1", "c-1")
TASK = load_task("digits")
# Their second round has other masks than the first.
EVIDENCE_IN_MID_RUN = ("prunefl(interval=1)", "fedtiny(interval=1, blocks=2)")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("data")
    found = prepare_folders(
        "digits", folder / "cache", folder / "out", DEVICES, alpha=1.0, seed=1
    )
    for device in DEVICES[1:]:  # the first has many times as many: it is bounded
        save_partition(found[device], load_partition(found[device]).take(slice(8)))
    return found


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """One real broker for all; every algorithm's run has a name of its own."""
    with open_broker(None, tmp_path_factory.mktemp("broker")) as running:
        yield running


@pytest.fixture(scope="module")
def pool(data: dict[str, Path]) -> Iterator[Workers]:
    with process_pool(1, "digits", data["evaluation"], Engine("torch")) as ready:
        yield ready


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """As in a simulation's workers: sums of two threads may round otherwise."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def settings(name: str) -> RunSettings:
    return RunSettings(
        federation=f"test-{name.partition('(')[0]}-{len(name)}",
        task="digits",
        evaluation=Path(),
        densities=[0.1, 0.4],
        rounds=2,
        algorithm=name,
        wait_for=3,
        training=TrainingSettings(max_steps=4, batch_size=8),
        warm_up=WarmUpSettings(devices=2, epochs=2, max_steps=4),
        codec=CodecSettings(up="fp32", down="fp32", zstd=False),
    )


def simulated(
    folder: Path, data: dict[str, Path], name: str, pool: Workers
) -> Simulation:
    """The same run without a network, to its end."""
    same = settings(name)
    folder.mkdir()
    simulation = Simulation(
        folder,
        SimulationSettings(
            task="digits",
            folder=str(data["evaluation"].parent),
            densities=same.densities,
            rounds=same.rounds,
            algorithm=name,
            cohort=len(DEVICES),
            engine="masked",
            training=same.training,
            warm_up=same.warm_up,
            codec=same.codec,
        ),
        {device: data[device] for device in DEVICES},
        data["evaluation"],
    )
    while not simulation.done:
        simulation.step(pool)
    return simulation


def client(address: Address, name: str) -> Callable[..., MqttTransport]:
    """How one party reaches the broker."""

    def connect(deliver: Any, on_link: Any, will: Any = None) -> MqttTransport:
        return MqttTransport(address, name, deliver, on_link, will=will, wait_s=30)

    return connect


def federate(
    folder: Path, data: dict[str, Path], name: str, broker: Broker
) -> tuple[Server, list[BaseException]]:
    """Runs it to its end; returns the server and whatever an agent died of."""
    ours = settings(name)
    address = Address(broker.host, broker.port)
    profile = load_board("raspberry_pi_4b_4gb")
    agents = []
    with closing(open_ledger(folder / "run")) as ledger:
        evaluation = TASK.eval_data(data["evaluation"])
        connect = client(address, ours.federation)
        server = Server(ours, TASK, evaluation, ledger, connect)
        for device in DEVICES:
            examples = TASK.train_data(data[device])
            runner = TaskRunner(TASK, examples, "masked")
            told = msgspec.to_builtins(profile)
            me = Identity(device, ours.federation, "digits", len(examples), told)
            reach = client(address, f"{ours.federation}-{device}")
            agents.append(Agent(me, reach, Journal(folder / device), runner))
        watchdog = threading.Timer(120, server.stop)
        watchdog.start()
        try:
            errors = run_around(server, agents)
        finally:
            watchdog.cancel()
        assert len([r for r in ledger.rounds() if r.no and r.model]) == 2
    return server, errors


@pytest.mark.parametrize("name", [*ALGORITHMS, *EVIDENCE_IN_MID_RUN])
def test_it_trains_over_mqtt_as_in_simulation_and_goes_on_from_the_disk(
    tmp_path: Path, data: dict[str, Path], name: str, broker: Broker, pool: Workers
) -> None:
    server, errors = federate(tmp_path, data, name, broker)
    assert errors == []
    global_model = server._global_model
    assert global_model.model is not None
    assert global_model.family is not None
    for density, mask in global_model.family.masks.items():
        wanted = int(density * mask.numel + 1e-9)
        drawn = name.endswith("released")  # its counts are drawn, too
        assert abs(mask.nnz - wanted) <= (5 * wanted**0.5 if drawn else 0)
    with closing(open_ledger(tmp_path / "run")) as ledger:
        again = GlobalModel(settings(name), TASK, load_algorithm(name), ledger)
        again.load()
        assert again.model is not None
        assert again.family is not None
        assert again.family.masks == global_model.family.masks
        assert again.family.own == global_model.family.own
        same_bits(again.model, global_model.model)
        scores = ledger.scores()[2]
        assert set(scores) == set(global_model.family.masks)
    simulation = simulated(tmp_path / "simulated", data, name, pool)
    assert simulation.family is not None
    assert simulation.model is not None
    assert simulation.family.masks == global_model.family.masks
    assert simulation.family.own == global_model.family.own
    same_bits(simulation.model, global_model.model)
    if name in EVIDENCE_IN_MID_RUN:
        assert [r.moved for r in simulation.journal.records] == [False, True, False]
    last = simulation.journal.records[-1].scores
    for density, own in scores.items():
        for metric, value in own.items():
            assert last[f"{density:g}"][metric] == pytest.approx(value)


def same_bits(one: Model, other: Model) -> None:
    for mine, theirs in ((one.masked, other.masked), (one.dense, other.dense)):
        assert set(mine) == set(theirs)
        for name in mine:
            np.testing.assert_array_equal(mine[name], theirs[name])
    assert set(one.state) == set(other.state)
    for quantity, entries in one.state.items():
        assert set(entries) == set(other.state[quantity])
        for name, array in entries.items():
            np.testing.assert_array_equal(array, other.state[quantity][name])
