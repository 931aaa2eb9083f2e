"""One small fleet of digits, and workers that stay up for all tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from coordinator.settings import CodecSettings, TrainingSettings, WarmUpSettings
from coordinator.simulation.data.folders import places_of
from coordinator.simulation.rounds import Simulation
from coordinator.simulation.settings import SimulationSettings
from coordinator.simulation.workers.engine import engine_for
from coordinator.simulation.workers.interface import Workers
from coordinator.simulation.workers.process_pool import process_pool
from edge_sdk.tasks.task import load_task

DIGITS = SimulationSettings(
    task="digits",
    data="digits",
    devices=6,
    cohort=3,
    densities=[0.1],
    rounds=2,
    algorithm="flash",
    engine="program",
    training=TrainingSettings(rate=0.2, rate_end=0.1, batch_size=8, max_steps=6),
    warm_up=WarmUpSettings(devices=2, epochs=2, max_steps=4),
    codec=CodecSettings(up="fp32", down="fp32", zstd=False),
)

Make = Callable[..., Simulation]


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def pool(cache: Path) -> Iterator[Workers]:
    _, evaluation = places_of(DIGITS, cache=cache)
    task = load_task("digits")
    engine = engine_for(task, "program", task.read_eval(evaluation), cache)
    with process_pool(2, "digits", evaluation, engine) as ready:
        yield ready


@pytest.fixture
def make(cache: Path, tmp_path: Path) -> Make:
    """Makes simulations of the small fleet, in one folder or in several."""

    def made(folder: str = "run", **changes: Any) -> Simulation:
        settings = msgspec.structs.replace(DIGITS, **changes)
        (tmp_path / folder).mkdir(exist_ok=True)
        folders, evaluation = places_of(settings, cache=cache)
        return Simulation(tmp_path / folder, settings, folders, evaluation)

    return made
