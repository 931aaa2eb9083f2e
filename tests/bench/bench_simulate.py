"""Seconds of a simulated MNIST round: 10 devices, 6,000 examples, 10,000 scored.

    python tests/bench/bench_simulate.py [rounds]

Processor seconds are those of all workers and of the coordinator; on idle cores the
wall time is theirs divided by the workers.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from pathlib import Path

import msgspec
import psutil

from coordinator.simulation.data.folders import places_of
from coordinator.simulation.presets import PRESETS
from coordinator.simulation.rounds import Simulation
from coordinator.simulation.settings import SimulationSettings
from coordinator.simulation.workers.engine import engine_for
from coordinator.simulation.workers.process_pool import process_pool

WORKERS = 2


def processor_s() -> float:
    """Of this process and of all below it."""
    me = psutil.Process()
    times = [p.cpu_times() for p in (me, *me.children(recursive=True))]
    return sum(t.user + t.system for t in times)


def main(rounds: int) -> None:
    raw = {**PRESETS["flash-mnist"], "algorithm": "equal-counts", "engine": "program"}
    settings = msgspec.convert(raw, SimulationSettings)
    folders, evaluation = places_of(settings)
    wall, processor = [], []
    with tempfile.TemporaryDirectory() as folder:
        simulation = Simulation(Path(folder), settings, folders, evaluation)
        engine = engine_for(
            simulation.task, settings.engine, simulation.scored, Path(folder)
        )
        with process_pool(WORKERS, settings.task, evaluation, engine) as pool:
            for _ in range(2):  # the plan, and a round that warms up
                simulation.step(pool)
            for _ in range(rounds):
                before, began = processor_s(), time.monotonic()
                simulation.step(pool)
                wall.append(time.monotonic() - began)
                processor.append(processor_s() - before)
    print(
        f"{WORKERS} workers, {rounds} rounds, medians: {statistics.median(wall):.2f} s "
        f"wall (least {min(wall):.2f}), {statistics.median(processor):.2f} s processor"
    )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 10)
