"""Every algorithm in a whole federation over the in-memory broker."""

from __future__ import annotations

import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from coordinator.algorithms import ALGORITHMS
from coordinator.ledger import open_ledger
from coordinator.lineage import Lineage
from coordinator.server import Server
from coordinator.settings import (
    CodecSettings,
    RunSettings,
    TrainingSettings,
    WarmUpSettings,
)
from device_profiles import load_board
from edge_sdk.agent import Agent, Identity
from edge_sdk.journal import Journal
from edge_sdk.models.prepare_data import prepare_folders
from edge_sdk.models.task import load_task
from edge_sdk.training.runner import TaskRunner
from edge_sdk.transport.memory import MemoryBroker

DEVICES = ("a-1", "b-1", "c-1")
TASK = load_task("digits")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("data")
    return prepare_folders(
        "digits", folder / "cache", folder / "out", DEVICES, alpha=1.0, seed=1
    )


def settings(name: str) -> RunSettings:
    return RunSettings(
        federation="test",
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


def federate(
    folder: Path, data: dict[str, Path], name: str
) -> tuple[Server, list[BaseException]]:
    """Runs it to its end; returns the server and whatever an agent died of."""
    broker, errors = MemoryBroker(), list[BaseException]()
    profile = load_board("raspberry_pi_4b_4gb")
    threads, agents, journals = [], [], []
    with closing(open_ledger(folder / "run")) as ledger:
        evaluation = TASK.eval_data(data["evaluation"])
        connect: Any = broker.connect
        server = Server(settings(name), TASK, evaluation, ledger, connect)
        for device in DEVICES:
            examples = TASK.train_data(data[device])
            runner = TaskRunner(TASK, examples, "masked")
            told = msgspec.to_builtins(profile)
            me = Identity(device, "test", "digits", len(examples), told)
            journals.append(Journal(folder / device))
            agent = Agent(me, broker.connect, journals[-1], runner)
            agents.append(agent)

            def run(one: Agent = agent) -> None:
                try:
                    one.run(until_done=True)
                except BaseException as error:  # noqa: BLE001 - the test looks at it
                    errors.append(error)

            threads.append(threading.Thread(target=run, daemon=True))
            threads[-1].start()
        watchdog = threading.Timer(120, server.stop)
        watchdog.start()
        try:
            server.run()
        finally:
            watchdog.cancel()
            server.close()
        for agent in agents:
            agent.stop()
        for thread in threads:
            thread.join(30)
        for journal in journals:
            journal.close()
        assert len([r for r in ledger.rounds() if r.no and r.model]) == 2
    return server, errors


@pytest.mark.parametrize("name", ALGORITHMS)
def test_it_trains_over_the_transport_and_goes_on_from_the_disk(
    tmp_path: Path, data: dict[str, Path], name: str
) -> None:
    server, errors = federate(tmp_path, data, name)
    assert errors == []
    lineage = server._lineage
    assert lineage.model is not None
    assert lineage.family is not None
    for density, mask in lineage.family.masks.items():
        assert mask.nnz == int(density * mask.numel + 1e-9)
    with closing(open_ledger(tmp_path / "run")) as ledger:
        again = Lineage(settings(name), TASK, ALGORITHMS[name], ledger)
        again.load()
        assert again.model is not None
        assert again.family is not None
        assert again.family.masks == lineage.family.masks
        assert again.family.own == lineage.family.own
        for layer, values in lineage.model.masked.items():
            np.testing.assert_array_equal(again.model.masked[layer], values)
        scores = ledger.scores()[2]
        assert set(scores) == set(lineage.family.masks)
