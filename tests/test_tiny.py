"""Everything once, in seconds: warm-up, a round, export, verify, without a network."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import msgspec
import numpy as np
import pytest
from in_threads import run_around

from coordinator.ledger import open_ledger, read_ledger
from coordinator.server.loop import Server
from coordinator.settings import RunSettings, TrainingSettings, WarmUpSettings
from coordinator.views.terminal.status import summary
from device_profiles import load_board
from edge_sdk.agent import Agent, Identity
from edge_sdk.checkpoint import load_checkpoint
from edge_sdk.datasets.partition import load_partition
from edge_sdk.datasets.prepare import prepare_folders
from edge_sdk.storage.journal import Journal
from edge_sdk.tasks.task import load_task
from edge_sdk.training.runner import TaskRunner
from edge_sdk.transport.memory import MemoryBroker
from export import build, verify

BOARDS = {"pi-1": "raspberry_pi_4b_4gb", "orin-1": "jetson_orin_nano"}


def agent(name: str, data: Path, state: Path, broker: MemoryBroker) -> Agent:
    examples = load_partition(data)
    profile = msgspec.to_builtins(load_board(BOARDS[name]))
    if name == "pi-1":  # its owner lends so few bytes that only the sub-mask fits
        profile["caps"]["bytes_per_round"] = 20_000
    return Agent(
        Identity(name, "tiny", "digits", len(examples), profile),
        broker.connect,
        Journal(state),
        TaskRunner(load_task("digits"), examples, "auto"),
    )


@pytest.fixture
def federation(tmp_path: Path) -> Path:
    """One finished run of two devices in memory; its folder."""
    data = prepare_folders(
        "digits", tmp_path / "cache", tmp_path / "data", list(BOARDS), alpha=1.0, seed=1
    )
    settings = RunSettings(
        federation="tiny",
        task="digits",
        evaluation=data["evaluation"],
        densities=[0.1, 0.4],
        rounds=1,
        wait_for=2,
        training=TrainingSettings(max_steps=20, rate=0.2),
        warm_up=WarmUpSettings(devices=1, epochs=2, max_steps=10),
    )
    broker = MemoryBroker()
    agents = [agent(n, data[n], tmp_path / n, broker) for n in BOARDS]
    ledger = open_ledger(tmp_path / "run")
    task = load_task("digits")
    scored_on = task.eval_data(settings.evaluation)
    server = Server(settings, task, scored_on, ledger, broker.connect)
    with closing(ledger):
        assert run_around(server, agents) == []
    return tmp_path


def test_two_devices_train_one_sparse_model_that_exports_exactly(
    federation: Path,
) -> None:
    found = summary(federation / "run")
    assert found["rounds_done"] == 1
    assert found["updates"] == {"0": 1, "1": 2}
    assert {d["name"]: d["density"] for d in found["devices"]} == {
        "pi-1": 0.1,
        "orin-1": 0.4,
    }
    small, large = (
        load_checkpoint(federation / "run" / "models" / f"density-{d}.safetensors")
        for d in ("0.1", "0.4")
    )
    assert small.mask.nnz == 1280
    assert large.mask.nnz == 5120
    assert small.mask.issubset(large.mask)
    assert any(np.any(v) for v in small.values.values())

    with closing(read_ledger(federation / "run")) as ledger:  # what dense would cost
        load, layers = ledger.get("workload"), ledger.get("layers")
    state = load_task("digits").model().state_dict()
    whole = sum(entry.numel() for entry in state.values())
    assert sum(layers.values()) + load["dense_numel"] == whole
    assert load["macs"].keys() == layers.keys()

    checkpoint = federation / "run" / "models" / "density-0.1.safetensors"
    out = federation / "digits.onnx"
    data = federation / "data" / "evaluation"
    assert build(checkpoint, out=out, data=data).findings.bitwise
    assert verify(out, checkpoint, data=data).findings.parity.max_relative < 1e-5
