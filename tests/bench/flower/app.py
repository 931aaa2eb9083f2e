"""Flower's simulation of MNISTNet, timed by round; runs in Flower's own environment.

Only torch, numpy and flwr are imported; the network is read from our source file, so
that both train the same one. `tests/bench/bench_flower.py` starts it.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import psutil
from clients import client_app, network
from flwr.app import ArrayRecord, Context, Message
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation


def processor_s() -> float:
    """Of this process and of all below it, Ray's among them."""
    me, total = psutil.Process(), 0.0
    for process in (me, *me.children(recursive=True)):
        with contextlib.suppress(psutil.Error):  # it has just ended
            times = process.cpu_times()
            total += times.user + times.system
    return total


class Timed(FedAvg):
    """FedAvg that notes when each round's aggregate is there."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.ends: list[tuple[float, float]] = []

    def aggregate_train(self, server_round: int, replies: Iterable[Message]) -> Any:
        """As FedAvg; a client that failed ends the measurement."""
        replies = list(replies)
        if any(reply.has_error() for reply in replies):
            sys.exit(f"round {server_round}: a client failed")
        found = super().aggregate_train(server_round, replies)
        self.ends.append((time.monotonic(), processor_s()))
        return found


def main() -> None:
    """Prints seconds of each round but the first as JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("data", type=Path)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--noop", action="store_true")
    asked = parser.parse_args()
    folders = [
        str(path.resolve())
        for path in sorted(asked.data.iterdir())
        if path.name != "evaluation"
    ]
    clients = len(folders)
    strategy = Timed(
        fraction_train=1.0,
        fraction_evaluate=0.0,
        min_train_nodes=clients,
        min_available_nodes=clients,
    )
    server = ServerApp()

    @server.main()
    def run(grid: Grid, _context: Context) -> None:
        arrays = ArrayRecord(network().state_dict())
        strategy.start(grid=grid, initial_arrays=arrays, num_rounds=asked.rounds + 1)

    run_simulation(
        server_app=server,
        client_app=client_app(folders, noop=asked.noop),
        num_supernodes=clients,
        backend_config={"client_resources": {"num_cpus": 1, "num_gpus": 0.0}},
    )
    steps = list(itertools.pairwise(strategy.ends))
    found = {
        "seconds": [after[0] - before[0] for before, after in steps],
        "processor": [after[1] - before[1] for before, after in steps],
    }
    sys.stdout.write("\n" + json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
