"""Adapters over a fleet: the same bits over a broker, and only they travel."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from coordinator.broker.start import Broker, open_broker
from coordinator.simulation.data.folders import places_of
from coordinator.simulation.mqtt import over_mqtt
from coordinator.simulation.result import Run
from coordinator.simulation.rounds import Simulation
from coordinator.simulation.settings import SimulationSettings, run_settings
from coordinator.simulation.workers.engine import engine_for
from coordinator.simulation.workers.interface import Workers
from coordinator.simulation.workers.process_pool import process_pool
from edge_sdk.checkpoint import load_checkpoint
from edge_sdk.tasks.parts.adapters import Adapters
from edge_sdk.tasks.parts.run_task import run_task
from edge_sdk.tasks.task import load_task

Make = Callable[..., Simulation]
TASK = load_task("digits")
ADAPTERS = Adapters(rank=2, on=("conv2", "fc1"), train=("fc2.bias",))
ASKED: dict[str, Any] = {
    "adapters": ADAPTERS,
    "cohort": 4,
    "rounds": 2,
    "densities": [0.5],
}


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    folder = tmp_path_factory.mktemp("broker")
    with open_broker(None, folder, kind="mosquitto") as running:
        yield running


@pytest.fixture(scope="module")
def adapted_pool(cache: Path) -> Iterator[Workers]:
    settings = SimulationSettings(task="digits", data="digits", devices=6, **ASKED)
    _, evaluation = places_of(settings, cache=cache)
    task, folder = run_task(TASK, run_settings(settings)), cache / "adapted"
    folder.mkdir()
    engine = engine_for(task, "program", TASK.read_eval(evaluation), folder)
    assert engine.program
    with process_pool(2, "digits", evaluation, engine) as ready:
        yield ready


def models(folder: Path) -> list[bytes]:
    found = sorted((folder / "checkpoints").glob("*.safetensors"))
    return [path.read_bytes() for path in found]


def test_adapters_alone_move_and_travel_and_are_folded_into_the_model(
    make: Make, pool: Workers, adapted_pool: Workers, tmp_path: Path
) -> None:
    runs = {
        "whole": make("whole", **{**ASKED, "adapters": None}),
        "adapted": make("adapted", **ASKED),
    }
    for simulation, trains in zip(runs.values(), (pool, adapted_pool), strict=True):
        while not simulation.done:
            simulation.step(trains)
    first, *_, last = (
        load_checkpoint(path)
        for path in sorted((tmp_path / "adapted/checkpoints").glob("*.safetensors"))
    )
    assert last.adapters == {"conv2": 2, "fc1": 2}
    for name, array in last.dense.items():
        assert (array != first.dense[name]).any() == (name == "fc2.bias")
    whole, adapted = (s.journal.records[-1] for s in runs.values())
    assert adapted.bytes_up < 0.6 * whole.bytes_up
    assert adapted.scores
    run = Run(tmp_path / "adapted", TASK, runs["adapted"].settings, [adapted])
    found = {n: t.numpy() for n, t in run.model(0.5).state_dict().items()}
    assert set(found) == set(TASK.model().state_dict())
    kept = load_checkpoint(
        max((tmp_path / "adapted/checkpoints").glob("*.safetensors"))
    )
    factors = kept.state()
    up, down = (factors[f"fc1.adapter.{f}.weight"] for f in ("up", "down"))
    np.testing.assert_allclose(
        found["fc1.weight"] - kept.dense["fc1.weight"], up @ down, atol=1e-6
    )
    assert torch.is_tensor(run.model(0.5)(torch.zeros(1, 1, 8, 8)))


@pytest.mark.broker
def test_over_a_broker_the_bits_are_the_same(
    make: Make, adapted_pool: Workers, tmp_path: Path, broker: Broker
) -> None:
    own = {**ASKED, "personal": ["fc2.weight"]}  # a head of each device beside them
    without = make("without", **own)
    while not without.done:
        without.step(adapted_pool)
    over = make("over", **own)
    way: Any = over_mqtt(
        *(tmp_path / "over", broker.url, over.fleet.devices, adapted_pool),
        task="digits", rounds=own["rounds"],
    )  # fmt: skip
    with way as opened:
        while not over.done:
            over.step(adapted_pool, opened)
    assert models(tmp_path / "over") == models(tmp_path / "without")
    assert models(tmp_path / "over")
