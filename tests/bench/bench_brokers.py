"""A run through each known broker's limits: time, ratio to mosquitto's, breaches.

Run: python tests/bench/bench_brokers.py [--rounds N] [--cuts] [--deliver]
Beside each time stands the least that the rates allow: messages and bytes of the
busiest client, by the rates of the profile; devices wait for the coordinator's part.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from brokers import mosquitto
from limiting import LimitingBroker
from whole_run import pack_wide, run_through

from edge_sdk.transport.address import Address
from edge_sdk.transport.limits import PROFILES


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--profiles", nargs="*", default=[*PROFILES])
    parser.add_argument("--cuts", action="store_true", help="Cut links in training.")
    parser.add_argument("--deliver", action="store_true", help="A bundle, too.")
    given = parser.parse_args()
    plain_s, packed = 0.0, None
    if given.deliver:
        with tempfile.TemporaryDirectory() as text:
            packed = pack_wide(Path(text) / "wide")
    print(f"{'profile':<12} {'seconds':>8} {'ratio':>6} {'least':>6} {'breaches':>8}")
    for name in given.profiles:
        with tempfile.TemporaryDirectory() as text:
            folder, limits = Path(text), PROFILES[name]
            lines = ("allow_anonymous true", "max_queued_messages 0")
            with (
                mosquitto(folder, *lines) as broker,
                LimitingBroker(broker.port, limits) as proxy,
            ):
                there = Address("127.0.0.1", proxy.port, limits=limits)
                began = time.perf_counter()
                cut = proxy if given.cuts else None
                run_through(there, folder, rounds=given.rounds, cut=cut, packed=packed)
                took_s = time.perf_counter() - began
            plain_s = plain_s or took_s
            least_s = max(
                *(n / limits.publishes_per_s for n in proxy.published.values()),
                *(n / limits.bytes_per_s for n in proxy.bytes.values()),
            )
            breaches = sum(proxy.breaches.values())
            ratio = took_s / plain_s
            print(f"{name:<12} {took_s:8.1f} {ratio:6.2f} {least_s:6.1f} {breaches:8}")
            for line in proxy.told:
                print(f"  {line}")


if __name__ == "__main__":
    main()
