"""Bytes and time of rounds with secure aggregation beside those of the fp16 codec.

    python tests/bench/bench_secure.py --devices 100 [--signed] [--json FILE]

A real coordinator and light agents (the real ones, without training) in one process, on
a broker in memory that counts what passes through it. Two rounds for each kind; the
second is reported. Wall and CPU are of the whole fleet on one disk and a core or two;
`apart` is what a round takes where each device has its own board and disk: the
coordinator's seconds and those of the slowest device. Ratios count, not seconds. Keys
and shares do not depend on the model: what they add tells from which update on all
bytes are at most 1.2 times those of fp16.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from secure_house import sign_keys
from virtual import House

from coordinator.algorithms.privacy import PrivacySettings
from coordinator.settings import CodecSettings
from edge_sdk.transport.memory import MemoryBroker

MOST = 1.2  # times the bytes of fp16
KINDS: dict[str, dict[str, Any]] = {
    "fp16": {"codec": CodecSettings(up="fp16", zstd=False)},
    "secure": {"privacy": PrivacySettings(secure_aggregation=True)},
}


class CountingBroker(MemoryBroker):
    """Counts the bytes of what goes through it."""

    passed = 0

    def route(self, topic: str, payload: bytes, *, retain: bool) -> None:
        self.passed += len(payload)
        super().route(topic, payload, retain=retain)


def timed(spent: Counter[str], name: str, turn: Callable[[], None]) -> Any:
    """A turn whose seconds are counted under a name."""

    def run() -> None:
        began = time.perf_counter()
        turn()
        spent[name] += time.perf_counter() - began  # type: ignore[assignment]

    return run


def second_round(
    devices: int, density: float, *, signed: bool = False, **changes: Any
) -> dict[str, float]:
    """Bytes of all messages and of one update; seconds: wall, CPU, each apart."""
    broker, spent = CountingBroker(), Counter[str]()
    plain = {"algorithm": "erk", "rounds": 2, "wait_for": devices}
    plain |= {"densities": [density], "round_budget_s": 3600.0}
    with tempfile.TemporaryDirectory() as folder:
        here = House(Path(folder), broker, **{**plain, **changes})
        for place in range(devices):
            here.join(f"pi-{place:03}", board="jetson_orin_nano")
        if signed and "privacy" in changes:
            sign_keys(here)

        def done(count: int) -> bool:
            rounds = here.coordinator.ledger.rounds()
            return sum(row.phase.value == "done" for row in rounds) >= count

        for turned in (here.coordinator, *here.devices.values()):
            name = getattr(turned, "name", "")
            vars(turned)["turn"] = timed(spent, name, turned.turn)

        here.until(lambda: done(1), 1e6)
        spent.clear()
        before = broker.passed, time.perf_counter(), time.process_time()
        here.until(lambda: done(2), 1e6)
        after = broker.passed, time.perf_counter(), time.process_time()
        size = here.coordinator.ledger._db.execute(
            "SELECT avg(size) FROM updates WHERE round = 2"
        ).fetchone()[0]
        here.close()
    passed, wall, cpu = (b - a for a, b in zip(before, after, strict=True))
    coordinator = spent.pop("")
    return {
        "update": float(size),
        "all": passed,
        "wall_s": wall,
        "cpu_s": cpu,
        "coordinator_s": coordinator,
        "apart_s": coordinator + max(spent.values()),
    }


def smallest_update(plain: dict[str, float], masked: dict[str, float], n: int) -> int:
    """Bytes of the update from which on masked rounds keep to `MOST` times the bytes.

    Args:
        plain: A round at fp16.
        masked: The same with secure aggregation.
        n: Devices.
    """
    beside = plain["all"] / n - plain["update"]
    added = masked["all"] / n - masked["update"] - beside
    return round(added / (MOST - 1) - beside)


def main() -> None:
    """Prints a row for each density and kind, and the smallest update."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--devices", type=int, default=100)
    parser.add_argument("--densities", type=float, nargs="+", default=[0.2, 1.0])
    parser.add_argument("--signed", action="store_true", help="devices have identities")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    print(
        "| density | | update | all bytes | wall s | CPU s | coordinator s | apart s |"
    )
    print("|---|---|---|---|---|---|---|---|")
    told: list[dict[str, Any]] = []
    for density in given.densities:
        found = {}
        for name, changes in KINDS.items():
            row = second_round(given.devices, density, signed=given.signed, **changes)
            found[name] = row
            print(
                f"| {density:g} | {name} | {row['update']:,.0f} B "
                f"| {row['all'] / 1e6:.2f} MB | {row['wall_s']:.1f} "
                f"| {row['cpu_s']:.1f} | {row['coordinator_s']:.2f} "
                f"| {row['apart_s']:.2f} |",
                flush=True,
            )
        least = smallest_update(found["fp16"], found["secure"], given.devices)
        print(f"at most {MOST} times the bytes from updates of {least:,} B on")
        told.append({"density": density, **found, "smallest_update": least})
    if given.json is not None:
        own = {"devices": given.devices, "signed": given.signed, "rows": told}
        given.json.write_text(json.dumps(own, indent=1))


if __name__ == "__main__":
    main()
