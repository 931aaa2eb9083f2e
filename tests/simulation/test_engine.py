"""A simulation by the model's program: torch's updates, and one engine for a run."""

from __future__ import annotations

import logging
from functools import partial
from pathlib import Path

import msgspec
import numpy as np
import pytest
import safetensors.numpy
from numpy.typing import NDArray

from coordinator.checkpoints.models import model_name
from coordinator.settings import CodecSettings, TrainingSettings, WarmUpSettings
from coordinator.simulation.run import load_simulation, simulate
from coordinator.simulation.settings import FleetGroup, SimulationSettings
from coordinator.simulation.workers.in_process import in_process
from edge_sdk.errors import StateError
from edge_sdk.tasks.task import load_task

SETTINGS = SimulationSettings(
    task="digits",
    data="digits",
    devices=4,
    cohort=3,
    densities=[0.1, 0.4],
    fleet=[FleetGroup(share=0.5, density=0.1), FleetGroup(share=0.5, density=0.4)],
    rounds=2,
    training=TrainingSettings(rate=0.2, batch_size=8, momentum=0.9, max_steps=5),
    codec=CodecSettings(up="fp32", down="fp32", zstd=False),
    warm_up=WarmUpSettings(devices=2, epochs=1, max_steps=4),
)


def played(
    folder: Path, cache: Path, settings: SimulationSettings
) -> NDArray[np.float32]:
    """The last model, all entries in one vector."""
    workers = partial(in_process, task=load_task(settings.task))
    simulate(folder, settings, worker_count=0, open_workers=workers, cache=cache)
    last = folder / "checkpoints" / model_name(settings.rounds)
    entries = safetensors.numpy.load_file(last)
    return np.concatenate([entries[n].ravel() for n in sorted(entries)])


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"algorithm": "flash", "densities": [0.1], "fleet": []},
        {"algorithm": "fedavg", "densities": [1.0], "fleet": []},
        {"algorithm": "scaffold", "densities": [0.1], "fleet": []},
    ],
    ids=lambda changes: changes.get("algorithm", "flash-edge"),
)
def test_a_run_by_program_ends_with_the_model_of_one_by_torch(
    tmp_path: Path, cache: Path, changes: dict[str, object]
) -> None:
    settings = msgspec.structs.replace(SETTINGS, **changes)
    found = {}
    for engine in ("program", "torch"):
        own = msgspec.structs.replace(settings, engine=engine)
        found[engine] = played(tmp_path / engine, cache, own)
    short = msgspec.structs.replace(settings, rounds=1, engine="torch")
    moved = np.linalg.norm(found["torch"] - played(tmp_path / "short", cache, short))
    wrong = np.linalg.norm(found["program"] - found["torch"])
    assert 0 < wrong < 1e-4 * moved  # another order of sums, and not the same engine


def test_auto_names_the_engine_and_a_folder_goes_on_with_its_own(
    tmp_path: Path, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        played(tmp_path / "run", cache, SETTINGS)
    assert "engine program: the model's training program" in caplog.text
    known = load_simulation(tmp_path / "run")
    assert known is not None
    assert known.engine == "program"
    by_torch = msgspec.structs.replace(SETTINGS, engine="masked", rounds=1)
    played(tmp_path / "old", cache, by_torch)  # as version 0.1.0 called it
    played(tmp_path / "old", cache, msgspec.structs.replace(by_torch, engine="auto"))
    found = load_simulation(tmp_path / "old")
    assert found is not None
    assert found.engine == "torch"
    other = msgspec.structs.replace(by_torch, engine="program")
    with pytest.raises(StateError, match="other settings: engine"):
        played(tmp_path / "old", cache, other)
