"""Rounds per second beside Flower's simulation: MNISTNet, 10 clients, 600 images each.

Flower is measured in an environment of its own:
    python -m venv /tmp/flwr
    /tmp/flwr/bin/pip install 'flwr[simulation]==1.41.0' torch
    python tests/bench/bench_flower.py /tmp/flwr/bin/python [--json FILE]

Real training is one epoch of SGD at batch 32 by every client; with a no-op, clients
give back what they got. Nobody evaluates. Both use all cores, a thread a client. The
runs of the three are interleaved; printed are medians over all rounds but the first.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import msgspec

from coordinator.simulation.places import places_of
from coordinator.simulation.play import Simulation
from coordinator.simulation.presets import PRESETS
from coordinator.simulation.settings import SimulationSettings
from coordinator.simulation.workers import workers

CLIENTS = 10
HERE = Path(__file__).parent
OURS = {
    "flash-edge, d = 0.05": {"algorithm": "equal-counts", "engine": "sparse"},
    "flash-edge, dense FedAvg": {"algorithm": "fedavg", "engine": "masked"},
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
    found: dict[str, dict[str, list[float]]] = {"real": {}, "no-op": {}}
    with tempfile.TemporaryDirectory() as scratch:
        data = _clients(Path(scratch))
        for _ in range(asked.repeats):
            for kind, times in found.items():
                for name, command in _commands(asked, data).items():
                    flags = ["--noop"] if kind == "no-op" else []
                    times.setdefault(name, []).extend(_run([*command, *flags]))
    rates = {
        kind: {name: 1 / statistics.median(s) for name, s in times.items()}
        for kind, times in found.items()
    }
    for kind, rate in rates.items():
        for name, value in rate.items():
            ratio = value / rate["Flower"]
            print(f"{kind:6} {name:26} {value:8.3f} rounds/s {ratio:6.1f}x")
    if asked.json:
        asked.json.parent.mkdir(parents=True, exist_ok=True)
        machine = {"cores": len(os.sched_getaffinity(0)), "load": os.getloadavg()}
        asked.json.write_text(json.dumps({"rounds_per_s": rates, **machine}, indent=2))


def _commands(asked: argparse.Namespace, data: Path) -> dict[str, list[str]]:
    rounds = ["--rounds", str(asked.rounds)]
    flower = [asked.python, str(HERE / "flower" / "app.py"), str(data), *rounds]
    ours = {
        name: [sys.executable, __file__, str(data), "--own", name, *rounds]
        for name in OURS
    }
    return {"Flower": flower, **ours}


def _run(command: list[str]) -> list[float]:
    ours = command[0] == sys.executable
    environment = os.environ | {  # Ray's workers find the clients there
        "PYTHONPATH": str(HERE.parents[1] if ours else HERE / "flower")
    }
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env=environment
    )
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stderr[-3000:]}")
    found: list[float] = json.loads(done.stdout.strip().splitlines()[-1])["seconds"]
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


def _play(data: Path, asked: argparse.Namespace) -> dict[str, list[float]]:
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
    seconds = []
    count = len(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as folder:
        simulation = Simulation(Path(folder), settings, folders, evaluation)
        with workers(count, settings.task, evaluation, raw["engine"]) as pool:
            for step in range(asked.rounds + 2):
                began = time.monotonic()
                simulation.step(pool)
                if step > 1:
                    seconds.append(time.monotonic() - began)
    return {"seconds": seconds}


if __name__ == "__main__":
    main()
