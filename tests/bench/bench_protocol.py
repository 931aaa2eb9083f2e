"""Measures the protocol at scale: a real coordinator, a real mosquitto, light devices.

Run from the root of the project:
    python tests/bench/bench_protocol.py [--devices 100,300,1000] [--rounds N]
        [--density D] [--json FILE]

Two tables. *No-op rounds*: 100 devices, small updates, wall time of a whole round from
its plan to its end in the ledger. *Large updates*: so many devices send 250 KB each in
one round; rate from the first OFFER to the last RECEIPT as the devices see it, peak
memory of broker and coordinator from the kernel (VmHWM). Nothing here gates anything.
Figures of the day and their bottleneck: docs/scale.md.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from edge_sdk.datasets.partition import save_partition
from edge_sdk.json_text import to_json
from edge_sdk.tasks.task import Examples

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
GIVE_UP_S = 400.0
SHAPES = {"digits": (1, 8, 8), "mnist": (1, 28, 28)}


def main() -> None:
    """Prints both tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--devices", default="100,300,1000")
    parser.add_argument("--rounds", type=int, default=9, help="of the no-op table")
    parser.add_argument("--density", type=float, default=0.237, help="0.237: 250 KB")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--only", choices=["noop", "large"])
    args = parser.parse_args()
    found: dict[str, Any] = {"cores": os.cpu_count()}
    if args.only != "large":
        found["noop"] = _measure("digits", 0.2, 100, args.rounds)
        print(_noop(found["noop"]), flush=True)
    if args.only != "noop":
        found["large"] = []
        for count in map(int, args.devices.split(",")):
            found["large"].append(_measure("mnist", args.density, count, 1))
            print(_large(found["large"][-1]), flush=True)
    if args.json:
        args.json.write_text(to_json(found, indent=1))


def _noop(row: dict[str, Any]) -> str:
    return (
        f"no-op round, {row['devices']} devices, {row['update_bytes']} bytes each: p50 "
        f"{row['round_ms_p50']:.0f} ms, p90 {row['round_ms_p90']:.0f} ms over "
        f"{row['rounds']} rounds; coordinator {row['coordinator_cpu_ms']:.2f} ms of "
        "CPU per device and round"
    )


def _large(row: dict[str, Any]) -> str:
    return (
        f"{row['devices']} devices x {row['update_bytes']} bytes: "
        f"{row['received']} received, {row['updates_per_s']:.0f} updates/s, broker "
        f"{row['broker_mib']:.0f} MiB, coordinator {row['coordinator_mib']:.0f} MiB "
        f"(+{row['growth_mib']:.0f} since it was ready); CPU per update: coordinator "
        f"{row['coordinator_cpu_ms']:.2f} ms, broker {row['broker_cpu_ms']:.2f} ms, "
        f"devices {row['devices_cpu_ms']:.2f} ms"
    )


def _measure(
    task: str,
    density: float,
    count: int,
    rounds: int,
    *,
    page: str = "",
    checkout: Path = ROOT,
) -> dict[str, Any]:
    """One run of a coordinator with so many light devices, from start to end.

    The coordinator is the checkout's; the devices are always those of this one.
    """
    with tempfile.TemporaryDirectory(prefix="flash-scale-") as name:
        folder = Path(name)
        rng = np.random.default_rng(1)
        inputs = rng.integers(0, 255, (32, *SHAPES[task]), np.uint8)
        save_partition(
            folder, Examples(inputs, np.arange(32, dtype=np.int64) % 10), part="eval"
        )
        (folder / "run.toml").write_text(
            f'federation = "scale"\ntask = "{task}"\nevaluation = "{folder}"\n'
            f'densities = [{density}]\nrounds = {rounds}\nalgorithm = "erk"\n'
            f'wait_for = {count}\nround_budget_s = 600.0\npage = "{page}"\n'
            "[training]\nmax_steps = 1\n"
            '[codec]\nup = "fp32"\ndown = "fp32"\nzstd = false\n'
        )
        log = folder / "coordinator.log"
        with log.open("wb") as out:
            coordinator = subprocess.Popen(
                [sys.executable, "-m", "coordinator.cli", "run", str(folder)],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                cwd=checkout,
                env={**os.environ, "PYTHONPATH": str(checkout)},
            )
        try:
            return _watch(folder, task, count, coordinator)
        except Exception:
            print(log.read_text()[-3000:], file=sys.stderr)
            raise
        finally:
            coordinator.terminate()
            coordinator.wait(30)


def _watch(
    folder: Path, task: str, count: int, coordinator: subprocess.Popen[bytes]
) -> dict[str, Any]:
    url = folder / "broker.url"
    _wait(url.exists, coordinator, "the broker")
    me = psutil.Process(coordinator.pid)
    _let_settle(me)  # the URL is written before the server is put together
    (broker,) = [p for p in me.children() if "mosquitto" in p.name()]
    ready_mib, ready_cpu = _peak_mib(me), _cpu_s(me)
    out = folder / "devices.json"
    light = [sys.executable, str(HERE / "light.py"), url.read_text().strip()]
    pid = str(coordinator.pid)
    with subprocess.Popen(
        [*light, "scale", task, str(count), str(out), pid]
    ) as devices:
        samples: list[tuple[float, float, float, float]] = []

        def over() -> bool:
            with contextlib.suppress(OSError, psutil.Error, StopIteration):  # ended
                now = _peak_mib(me), _cpu_s(me), _peak_mib(broker), _cpu_s(broker)
                samples.append(now)
            return devices.poll() is not None

        _wait(over, coordinator, "the devices")
    seen = json.loads(out.read_text())
    peak, cpu, broker_peak, broker_cpu = samples[-1]
    with sqlite3.connect(folder / "ledger.sqlite") as db:
        spans = db.execute("SELECT opened, closed FROM rounds WHERE no > 0").fetchall()
        (received,) = db.execute("SELECT count(*) FROM updates").fetchone()
        (size,) = db.execute("SELECT max(size) FROM updates").fetchone()
    milliseconds = sorted(_ms(closed) - _ms(opened) for opened, closed in spans)
    took = [row for row in seen["rounds"].values() if "last_receipt" in row]
    if "last_receipt" not in seen["rounds"].get("1", {}):
        raise RuntimeError(f"no update of round 1 was accepted: {seen}")
    first = seen["rounds"]["1"]
    updates = count * len(spans)
    cpu_s = sum(round_["cpu_after_s"] - round_["cpu_before_s"] for round_ in took)
    return {
        "devices": count,
        "rounds": len(spans),
        "received": received,
        "lost_links": seen["lost"],
        "update_bytes": size,
        "round_ms": milliseconds,
        "round_ms_p50": statistics.median(milliseconds),
        "round_ms_p90": milliseconds[int(0.9 * (len(milliseconds) - 1))],
        "updates_per_s": count / (first["last_receipt"] - first["first_offer"]),
        "broker_mib": broker_peak,
        "coordinator_mib": peak,
        "growth_mib": peak - ready_mib,
        "accept_cpu_ms": 1e3 * cpu_s / updates,
        "coordinator_cpu_ms": 1e3 * (cpu - ready_cpu) / updates,
        "broker_cpu_ms": 1e3 * broker_cpu / updates,
        "devices_cpu_ms": 1e3 * seen["cpu_s"] / updates,
    }


def _wait(until: Any, coordinator: subprocess.Popen[bytes], what: str) -> None:
    give_up = time.monotonic() + GIVE_UP_S
    while not until():
        if coordinator.poll() or time.monotonic() > give_up:
            raise RuntimeError(f"{what} did not come")
        time.sleep(0.1)


def _let_settle(process: psutil.Process) -> None:
    """Waits until the process has nothing more to do."""
    before, now = -1.0, 0.0
    while now - before > 0.02:
        time.sleep(1)
        before, now = now, _cpu_s(process)


def _peak_mib(process: psutil.Process) -> float:
    status = Path(f"/proc/{process.pid}/status").read_text()
    line = next(x for x in status.splitlines() if x.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def _ms(text: str) -> float:
    return 1e3 * datetime.fromisoformat(text).timestamp()


if __name__ == "__main__":
    main()
