"""Rounds per second beside Flower's simulation: MNISTNet, 10 clients, 600 images each.

Flower is measured in an environment of its own:
    python -m venv /tmp/flwr
    /tmp/flwr/bin/pip install 'flwr[simulation]==1.41.0' torch psutil
    python tests/bench/bench_flower.py /tmp/flwr/bin/python [--json FILE]

Real training is one epoch of SGD at batch 32 by every client; with a no-op, clients
give back what they got. Nobody evaluates. Both use all cores, a thread a client. The
runs of the three are interleaved; printed are medians over all rounds but the first.
Processor seconds, of all processes, say what idle cores would; wall time on cores with
other work says little.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import msgspec
from bench_simulate import processor_s

from coordinator.simulation.data.folders import places_of
from coordinator.simulation.presets import PRESETS
from coordinator.simulation.rounds import Simulation
from coordinator.simulation.settings import SimulationSettings
from coordinator.simulation.workers.engine import engine_for
from coordinator.simulation.workers.process_pool import process_pool
from edge_sdk.json_text import to_json

Times = dict[str, list[float]]
CLIENTS = 10
TRIES, GIVE_UP_S = 3, 300  # Ray's raylet dies now and then on busy cores
HERE = Path(__file__).parent
OURS = {
    "flash-edge, d = 0.05": {"algorithm": "equal-counts", "engine": "program"},
    "flash-edge, dense FedAvg": {"algorithm": "fedavg", "engine": "torch"},
}


def main() -> None:
    """Prints the table; writes JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("python", help="of Flower's environment")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--own", help=argparse.SUPPRESS)  # one run of ours
    parser.add_argument("--noop", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.own:
        print(json.dumps(_play(Path(asked.python), asked)))
        return
    found: dict[str, dict[str, list[Times]]] = {"real": {}, "no-op": {}}
    with tempfile.TemporaryDirectory() as scratch:
        data = _clients(Path(scratch))
        for _ in range(asked.repeats):
            for kind, times in found.items():
                for name, command in _commands(asked, data).items():
                    flags = ["--noop"] if kind == "no-op" else []
                    times.setdefault(name, []).append(_run([*command, *flags]))
    rounds = {
        kind: {name: _medians(runs) for name, runs in times.items()}
        for kind, times in found.items()
    }
    for kind, rows in rounds.items():
        for name, row in rows.items():
            seconds, processor = row["seconds"], row["processor"]
            print(f"{kind:6} {name:26} {seconds:7.3f} s {processor:7.3f} s processor")
    if asked.json:
        asked.json.parent.mkdir(parents=True, exist_ok=True)
        machine = {"cores": len(os.sched_getaffinity(0)), "load": os.getloadavg()}
        asked.json.write_text(to_json({"rounds": rounds, **machine}, indent=2))


def _commands(asked: argparse.Namespace, data: Path) -> dict[str, list[str]]:
    rounds = ["--rounds", str(asked.rounds)]
    flower = [asked.python, str(HERE / "flower" / "app.py"), str(data), *rounds]
    ours = {
        name: [sys.executable, __file__, str(data), "--own", name, *rounds]
        for name in OURS
    }
    return {"Flower": flower, **ours}


def _medians(runs: list[Times]) -> dict[str, float]:
    return {
        key: statistics.median(value for run in runs for value in run[key])
        for key in ("seconds", "processor")
    }


def _run(command: list[str]) -> Times:
    ours = command[0] == sys.executable
    environment = os.environ | {  # Ray's workers find the clients there
        "PYTHONPATH": str(HERE.parents[1] if ours else HERE / "flower")
    }
    for _ in range(TRIES):
        with subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
            start_new_session=True,  # Ray's daemons go with it
        ) as process:
            try:
                said, error = process.communicate(timeout=GIVE_UP_S)
            except subprocess.TimeoutExpired:
                print(f"nothing for {GIVE_UP_S} s, again: {command}", file=sys.stderr)
                os.killpg(process.pid, signal.SIGKILL)
                continue
        break
    else:
        sys.exit(f"{' '.join(command)} never ended")
    if process.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{error[-3000:]}")
    found: Times = json.loads(said.strip().splitlines()[-1])
    return found


def _clients(scratch: Path) -> Path:
    """Ten of a hundred parts of MNIST, and the evaluation set."""
    settings = msgspec.convert(PRESETS["flash-mnist"], SimulationSettings)
    folders, evaluation = places_of(settings)
    data = scratch / "data"
    data.mkdir()
    for name in sorted(folders)[:CLIENTS]:
        (data / name).symlink_to(folders[name].resolve())
    (data / "evaluation").symlink_to(evaluation.resolve())
    return data


def _play(data: Path, asked: argparse.Namespace) -> Times:
    """One run of ours: the first two steps, plan and a round, are not timed."""
    raw = {
        **PRESETS["flash-mnist"],
        **OURS[asked.own],
        "data": "",
        "folder": str(data),
        "cohort": CLIENTS,
        "evaluate_every": 10_000,
    }
    if asked.noop:
        sys.path.insert(0, str(HERE / "flower"))
        raw["task"] = "noop:task"
    if raw["algorithm"] == "fedavg":
        raw["densities"] = [1.0]
    settings = msgspec.convert(raw, SimulationSettings)
    folders, evaluation = places_of(settings)
    found: Times = {"seconds": [], "processor": []}
    count = len(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as folder:
        simulation = Simulation(Path(folder), settings, folders, evaluation)
        engine = engine_for(
            simulation.task, settings.engine, simulation.scored, Path(folder)
        )
        with process_pool(count, settings.task, evaluation, engine) as pool:
            for step in range(asked.rounds + 2):
                began, before = time.monotonic(), processor_s()
                simulation.step(pool)
                if step > 1:
                    found["seconds"].append(time.monotonic() - began)
                    found["processor"].append(processor_s() - before)
    return found


if __name__ == "__main__":
    main()
