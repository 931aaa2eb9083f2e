"""How near honest devices come to the bounds of ADR 23; a measurement.

Run from the root of the project:
    python tests/bench/bench_shares.py [--devices 16] [--rounds 10] [--json FILE]

The real coordinator and real agents, each on its thread, over the in-memory broker:
digits dealt by LDA, boards of two densities, and each device keeps a share of its data
between an eighth and all. Read from the ledger: by how much the longest update and the
largest count passed the median that the bound is a multiple of. The bounds are 5 and
10; what comes near would cost an honest device its say.
"""

from __future__ import annotations

import argparse
import logging
import sqlite3
import statistics
import sys
import tempfile
from contextlib import closing
from pathlib import Path

import msgspec
import numpy as np

from coordinator.ledger import open_ledger
from coordinator.rounds import contribution_limits as limits
from coordinator.server.loop import Server
from coordinator.settings import RunSettings, TrainingSettings, WarmUpSettings
from device_profiles import load_board
from edge_sdk.agent import Agent, Identity
from edge_sdk.datasets.partition import load_partition
from edge_sdk.datasets.prepare import prepare_folders
from edge_sdk.json_text import to_json
from edge_sdk.storage.journal import Journal
from edge_sdk.tasks.task import Examples, load_task
from edge_sdk.training.runner import TaskRunner
from edge_sdk.transport.memory import MemoryBroker

sys.path.insert(0, str(Path(__file__).parents[1]))

from in_threads import run_around

BOARDS = ("raspberry_pi_4b_4gb", "jetson_orin_nano")


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--devices", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--alpha", type=float, nargs="+", default=[1.0, 0.1])
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    logging.disable(logging.WARNING)
    found = {}
    for alpha in asked.alpha:
        with tempfile.TemporaryDirectory() as folder:
            run = _train(Path(folder), alpha, asked.devices, asked.rounds)
            found[f"alpha {alpha:g}"] = _read(run)
    for name, values in found.items():
        print(f"{name}: " + ", ".join(f"{k} {v:.3g}" for k, v in values.items()))
    if asked.json:
        asked.json.parent.mkdir(parents=True, exist_ok=True)
        asked.json.write_text(to_json(found, indent=2))


def _train(folder: Path, alpha: float, devices: int, rounds: int) -> Path:
    """A whole run; the folder of its ledger."""
    names = [f"pi-{number}" for number in range(1, devices + 1)]
    data = prepare_folders(
        "digits", folder / "cache", folder / "data", names, alpha=alpha, seed=1
    )
    settings = RunSettings(
        federation="home",
        task="digits",
        evaluation=data["evaluation"],
        densities=[0.1, 0.4],
        rounds=rounds,
        wait_for=devices,
        training=TrainingSettings(rate=0.1, rate_end=0.01),
        warm_up=WarmUpSettings(devices=3, epochs=2),
    )
    broker, task = MemoryBroker(), load_task("digits")
    kept = np.random.default_rng(1).uniform(-3, 0, devices)
    agents = []
    for number, name in enumerate(names):
        whole = load_partition(data[name])
        count = max(2, round(len(whole) * 2 ** kept[number]))
        examples = Examples(whole.inputs[:count], whole.targets[:count])
        board = msgspec.to_builtins(load_board(BOARDS[number % 2]))
        me = Identity(name, "home", "digits", count, board)
        runner = TaskRunner(task, examples, "masked")
        agents.append(Agent(me, broker.connect, Journal(folder / name), runner))
    ledger = open_ledger(folder / "run")
    scored_on = task.eval_data(settings.evaluation)
    server = Server(settings, task, scored_on, ledger, broker.connect)
    with closing(ledger):
        for error in run_around(server, agents):
            raise error
    return folder / "run"


def _read(run: Path) -> dict[str, float]:
    """The largest ratios over all rounds, and how many updates were cut."""
    with closing(sqlite3.connect(run / "ledger.sqlite")) as ledger:
        rows = ledger.execute(
            "SELECT round, norm, examples, scale, weight FROM updates WHERE round > 0"
        ).fetchall()
    lengths, counts = [], []
    for no in sorted({row[0] for row in rows}):
        norms = [row[1] for row in rows if row[0] == no]
        past = [row[1] for row in rows if no - limits.PAST <= row[0] < no]
        lengths.append(max(norms) / limits._median([*norms, *past]))
        own = [row[2] for row in rows if row[0] == no]
        counts.append(max(own) / limits._median(own))
    return {
        "updates": len(rows),
        "cut": sum(row[3] < 1 or row[4] < row[2] for row in rows),
        "longest / median, most": max(lengths),
        "of rounds in the middle": statistics.median(lengths),
        "most examples / median": max(counts),
    }


if __name__ == "__main__":
    main()
