"""Measures a run without a last round: memory and ledger, round after round.

Run from the root of the project:
    python tests/bench/bench_endless.py [--devices N] [--rounds N] [--keep N]

A real coordinator with a real mosquitto and light devices. Every 25 rounds a line: what
the coordinator holds (VmRSS), the ledger with its log, and the whole folder of the run.
"""

from __future__ import annotations

import argparse
import contextlib
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil

from coordinator.ledger import read_ledger
from edge_sdk.datasets.partition import save_partition
from edge_sdk.errors import StateError
from edge_sdk.tasks.task import Examples

HERE = Path(__file__).parent
EVERY = 25


def main() -> None:
    """Print a line every 25 rounds, until there are enough."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--devices", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--keep", type=int, default=20)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="flash-endless-") as name:
        folder = Path(name)
        rng = np.random.default_rng(1)
        inputs = rng.integers(0, 16, (32, 1, 8, 8), np.uint8)
        labels = np.arange(32, dtype=np.int64) % 10
        save_partition(folder, Examples(inputs, labels), part="eval")
        (folder / "run.toml").write_text(
            f'federation = "scale"\ntask = "digits"\nevaluation = "{folder}"\n'
            f"densities = [0.2]\nrounds = 0\nkeep_rounds = {given.keep}\n"
            f'algorithm = "erk"\nwait_for = {given.devices}\nround_budget_s = 600.0\n'
            '[training]\nmax_steps = 1\nschedule = "constant"\n'
            '[codec]\nup = "fp32"\ndown = "fp32"\nzstd = false\n'
        )
        with (folder / "coordinator.log").open("wb") as out:
            coordinator = _started("-m", "coordinator.cli", "run", name, out=out)
        devices = None
        try:
            while not (folder / "broker.url").exists():
                time.sleep(0.1)
            time.sleep(1)  # written before the server is put together
            url = (folder / "broker.url").read_text().strip()
            light = str(HERE / "light.py"), url, "scale", "digits"
            seen = folder / "devices.json"
            rest = str(given.devices), str(seen), str(coordinator.pid)
            devices = _started(*light, *rest, out=None)
            _watch(folder, psutil.Process(coordinator.pid), given.rounds)
        finally:
            for process in (devices, coordinator):
                if process is not None:
                    process.terminate()
                    process.wait(30)


def _started(*command: str, out: object) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, *command],
        stdin=subprocess.DEVNULL,
        stdout=out,  # type: ignore[call-overload]
        stderr=out,
    )


def _watch(folder: Path, process: psutil.Process, rounds: int) -> None:
    told = 0
    while told < rounds:
        done = _done(folder)
        if done < told + EVERY:
            time.sleep(0.2)
            continue
        told = done
        held = process.memory_info().rss / 2**20
        ledger = sum(p.stat().st_size for p in folder.glob("ledger.sqlite*"))
        whole = sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
        print(
            f"round {done}: {held:.1f} MiB, ledger {ledger / 1024:.0f} KiB, folder "
            f"{whole / 1024:.0f} KiB",
            flush=True,
        )


def _done(folder: Path) -> int:
    with contextlib.suppress(StateError):
        ledger = read_ledger(folder)
        try:
            return ledger.rounds_done()
        finally:
            ledger.close()
    return 0


if __name__ == "__main__":
    main()
