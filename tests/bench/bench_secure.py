"""Bytes and time of rounds with secure aggregation beside those of the fp16 codec.

    python tests/bench/bench_secure.py --devices 100

A real coordinator and light agents (the real ones, without training) in one process, on
a broker in memory that counts what passes through it. Two rounds for each kind; the
second is reported. Seconds are of the whole fleet on one core or two, fsyncs included:
their ratio counts, not their number.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from virtual import House

from coordinator.algorithms.privacy import PrivacySettings
from coordinator.settings import CodecSettings
from edge_sdk.transport.memory import MemoryBroker


class CountingBroker(MemoryBroker):
    """Counts the bytes of what goes through it."""

    passed = 0

    def route(self, topic: str, payload: bytes, *, retain: bool) -> None:
        self.passed += len(payload)
        super().route(topic, payload, retain=retain)


def second_round(devices: int, density: float, **changes: Any) -> tuple[float, ...]:
    """Bytes of all messages, wall and CPU seconds, and bytes of one update."""
    broker = CountingBroker()
    plain = {"algorithm": "erk", "rounds": 2, "wait_for": devices}
    plain |= {"densities": [density], "round_budget_s": 3600.0}
    with tempfile.TemporaryDirectory() as folder:
        here = House(Path(folder), broker, **{**plain, **changes})
        for place in range(devices):
            here.join(f"pi-{place:03}", board="jetson_orin_nano")

        def done(count: int) -> bool:
            rounds = here.coordinator.ledger.rounds()
            return sum(row.phase.value == "done" for row in rounds) >= count

        here.until(lambda: done(1), 1e6)
        before = broker.passed, time.perf_counter(), time.process_time()
        here.until(lambda: done(2), 1e6)
        after = broker.passed, time.perf_counter(), time.process_time()
        size = here.coordinator.ledger._db.execute(
            "SELECT avg(size) FROM updates WHERE round = 2"
        ).fetchone()[0]
        here.close()
    return *(b - a for a, b in zip(before, after, strict=True)), float(size)


def main() -> None:
    """Prints a row for each density."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--devices", type=int, default=100)
    parser.add_argument("--densities", type=float, nargs="+", default=[0.2, 1.0])
    given = parser.parse_args()
    print("| density | | update | all bytes | wall s | CPU s |")
    print("|---|---|---|---|---|---|")
    kinds: dict[str, dict[str, Any]] = {
        "fp16": {"codec": CodecSettings(up="fp16", zstd=False)},
        "secure": {"privacy": PrivacySettings(secure_aggregation=True)},
    }
    for density in given.densities:
        for name, changes in kinds.items():
            found = second_round(given.devices, density, **changes)
            total, wall, cpu, size = found
            print(
                f"| {density:g} | {name} | {size:,.0f} B | {total / 1e6:.2f} MB "
                f"| {wall:.1f} | {cpu:.1f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
