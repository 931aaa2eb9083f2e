"""How long a run stands still after kill -9: of the coordinator, of a device.

Run from the root of the project:
    python tests/bench/bench_recover.py [--repeats N] [--json FILE]

Real coordinator, mosquitto and four devices as processes, digits, rounds without a
pause. The clock starts when the process is started again, at once.
For the coordinator it stops at the first update accepted under its new epoch, for a
device at its first update accepted afterwards: one that has torch, and one that has
not. Importing Python and torch is part of it: that alone is printed too, and what a
device then holds.
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).parents[1]))

from without_torch import python_without_torch

from coordinator.ledger import read_ledger
from coordinator.processes.children import ChildProcess, stop_all
from edge_sdk.datasets.prepare import EVALUATION_FOLDER, prepare_folders
from edge_sdk.errors import StateError
from edge_sdk.json_text import to_json

DEVICES = ("dev-1", "dev-2", "dev-3", "dev-4")
LEAN = "dev-2"  # the one without torch
GIVE_UP_S = 120.0
CACHE = Path("~/.cache/flash-edge").expanduser()


def main() -> None:
    """Prints medians; writes JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    found: dict[str, list[float]] = {
        "import torch": [],
        "coordinator": [],
        "device": [],
        "device without torch": [],
    }
    held: dict[str, list[float]] = {"device": [], "device without torch": []}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        _write(folder)
        children = [
            ChildProcess("flash-coordinator", ["run", str(folder / "run")], None)
        ]
        for name in DEVICES:
            line = ["run", str(folder / f"{name}.toml")]
            log, lean = folder / f"{name}.log", name == LEAN
            kind = _WithoutTorch if lean else ChildProcess
            children.append(kind("flash-edge", line, log))
        try:
            _wait(lambda: _accepted(folder) > 2 * len(DEVICES))
            for _ in range(asked.repeats):
                found["import torch"].append(_import())
                found["coordinator"].append(_coordinator(folder, children))
                lean = children[1 + DEVICES.index(LEAN)]
                for what, child, name in (
                    ("device", children[1], DEVICES[0]),
                    ("device without torch", lean, LEAN),
                ):
                    found[what].append(_device(folder, child, name))
                    rss = psutil.Process(child.process.pid).memory_info().rss
                    held[what].append(rss / 2**20)
        finally:
            stop_all(children)
    for name, seconds in found.items():
        low, high = min(seconds), max(seconds)
        print(
            f"{name:20} median {statistics.median(seconds):6.2f} s "
            f"({low:.2f} to {high:.2f} of {len(seconds)})"
        )
    for name, mib in held.items():
        print(f"{name:20} holds {statistics.median(mib):.0f} MiB")
    if asked.json:
        asked.json.parent.mkdir(parents=True, exist_ok=True)
        machine = {"cores": len(os.sched_getaffinity(0)), "load": os.getloadavg()}
        asked.json.write_text(
            to_json({"seconds": found, "mib": held, **machine}, indent=2)
        )


def _coordinator(folder: Path, children: list[ChildProcess]) -> float:
    _kill(children[0])
    before, began = _accepted(folder), time.monotonic()
    children[0] = ChildProcess(
        "flash-coordinator", ["resume", str(folder / "run")], None
    )
    _wait(lambda: _accepted(folder) > before)
    return time.monotonic() - began


class _WithoutTorch(ChildProcess):
    """An agent under the interpreter that has no torch."""

    def _start(self) -> subprocess.Popen[bytes]:
        lean = python_without_torch()
        self._line = [lean if p == sys.executable else p for p in self._line]
        return super()._start()


def _device(folder: Path, child: ChildProcess, name: str) -> float:
    _kill(child)
    before, began = _accepted(folder, name), time.monotonic()
    child.start_again()
    _wait(lambda: _accepted(folder, name) > before)
    return time.monotonic() - began


def _kill(child: ChildProcess) -> None:
    os.kill(child.process.pid, signal.SIGKILL)
    child.process.wait()


def _accepted(folder: Path, device: str | None = None) -> int:
    """Updates accepted so far, of all devices or of one."""
    try:
        ledger = read_ledger(folder / "run")
    except StateError:  # not there yet, or just being made
        return 0
    try:
        if device is None:
            return sum(row["accepted"] or 0 for row in ledger.round_history())
        rows = ledger.tasks_of_device(device)
        return sum(row["accepted"] is not None for row in rows)
    finally:
        ledger.close()


def _import() -> float:
    began = time.monotonic()
    subprocess.run([sys.executable, "-c", "import torch"], check=True)
    return time.monotonic() - began


def _wait(true: Callable[[], bool]) -> None:
    until = time.monotonic() + GIVE_UP_S
    while not true():
        if time.monotonic() > until:
            sys.exit("nothing came back")
        time.sleep(0.01)


def _write(folder: Path) -> None:
    data = prepare_folders(
        "digits", CACHE, folder / "data", list(DEVICES), alpha=1.0, seed=1
    )
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    (folder / "run").mkdir()
    (folder / "run" / "run.toml").write_text(
        f'federation = "recover"\ntask = "digits"\n'
        f'evaluation = "{data[EVALUATION_FOLDER]}"\n'
        f"densities = [0.2]\nrounds = 100000\nwait_for = 4\nport = {port}\n"
        "[training]\nmax_steps = 2\n[warm_up]\ndevices = 1\nmax_steps = 4\n",
        encoding="utf-8",
    )
    for name in DEVICES:
        (folder / f"{name}.toml").write_text(
            f'name = "{name}"\nfederation = "recover"\ntask = "digits"\n'
            f'broker = "mqtt://127.0.0.1:{port}"\ndata = "{data[name]}"\n'
            f'state = "{folder / name}"\nthreads = 1\n'
            'profile = "raspberry_pi_4b_4gb"\n',
            encoding="utf-8",
        )


if __name__ == "__main__":
    main()
