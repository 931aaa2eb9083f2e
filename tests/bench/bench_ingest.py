"""Processor time of a coordinator for an accepted update, beside an earlier version's.

Run from the root of the project:
    python tests/bench/bench_ingest.py [--before CHECKOUT] [--updates N] [--rounds N]
        [--repeats N] [--json FILE]

CHECKOUT is a folder with the earlier version (`git worktree add CHECKOUT COMMIT`): its
coordinator meets the same light devices. Every repeat runs one after the other: this
version, the earlier one, and a bare loop (`tests/bench/bare.py`) as the limit. Machines
and their load differ, so the figures to compare are the medians of each repeat's
ratios. *Accept* is from a round's first OFFER to its last RECEIPT.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
import bench_protocol
from brokers import mosquitto

from edge_sdk.json_text import to_json
from edge_sdk.wire.blob import CHUNK_SIZE, LARGEST_CHUNK

HERE = Path(__file__).resolve().parent
DENSITY, BYTES = 0.237, 251_016  # of a whole update
LARGE = "accept_cpu_ms", "coordinator_cpu_ms", "updates_per_s"
GIVE_UP_S = 400.0
NOOP = "round_ms_p50", "coordinator_cpu_ms"


def main() -> None:
    """Prints each repeat, then the medians of the ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--before", type=Path, help="checkout of an earlier version")
    parser.add_argument("--updates", type=int, default=304, help="a multiple of 8")
    parser.add_argument("--rounds", type=int, default=9, help="without training")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only", choices=["noop", "large"])
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    found: list[dict[str, dict[str, float]]] = []
    for _ in range(given.repeats):
        found.append(_repeat(given))
        print(json.dumps(found[-1]), flush=True)
    result = {"repeats": found, "ratios": _ratios(found)}
    print(json.dumps(result["ratios"], indent=1))
    if given.json:
        given.json.write_text(to_json(result, indent=1))


def _repeat(given: argparse.Namespace) -> dict[str, dict[str, float]]:
    row: dict[str, dict[str, float]] = {}
    versions = {"ours": bench_protocol.ROOT}
    if given.before is not None:
        versions["before"] = given.before.resolve()
    for name, checkout in versions.items():
        if given.only != "noop":
            large = ("mnist", DENSITY, given.updates, 1)
            row[name] = _of(bench_protocol._measure(*large, checkout=checkout), LARGE)
        if given.only != "large":
            noop = ("digits", 0.2, 100, given.rounds)
            took = bench_protocol._measure(*noop, checkout=checkout)
            row[f"{name}_noop"] = _of(took, NOOP)
    if given.only != "noop":
        row["bare"] = _bare(given.updates, LARGEST_CHUNK)
        row["bare_64k"] = _bare(given.updates, CHUNK_SIZE)
    return row


def _of(row: dict[str, Any], names: tuple[str, ...]) -> dict[str, float]:
    return {name: round(row[name], 3) for name in names}


def _bare(updates: int, chunk: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory(prefix="flash-bare-") as name:
        folder = Path(name)
        with mosquitto(folder, "allow_anonymous true") as broker:
            bare = sys.executable, str(HERE / "bare.py")
            size = broker.url, str(updates), str(BYTES)
            take = [*bare, "take", *size, str(folder)]
            with subprocess.Popen(take, stdout=subprocess.PIPE, text=True) as taker:
                send = [*bare, "send", *size, str(chunk)]
                subprocess.run(send, check=True, timeout=GIVE_UP_S)
                said, _ = taker.communicate()
    return _of(json.loads(said), ("accept_cpu_ms", "updates_per_s"))


def _ratios(found: list[dict[str, dict[str, float]]]) -> dict[str, float]:
    """Median over the repeats of ours to each other, by figure."""
    pairs = [("ours", "before"), ("ours", "bare"), ("ours_noop", "before_noop")]
    pairs += [("bare", "before"), ("bare_64k", "before")]
    return {
        f"{what}, {ours} / {other}": round(
            statistics.median(row[ours][what] / row[other][what] for row in found), 3
        )
        for ours, other in pairs
        if other in found[0] and ours in found[0]
        for what in found[0][ours]
        if what in found[0][other]
    }


if __name__ == "__main__":
    main()
