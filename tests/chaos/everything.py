"""`make chaos`: 20 seeds on mosquitto, 5 on each other broker, write points, kinds.

Prints a table and writes it as JSON. A violation ends it with exit code 1.
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from chaos.brokers import BROKERS, missing
from chaos.kinds import KINDS, compare_seed, quiet
from chaos.run import Result, run_seed
from chaos.sweep import all_kills, kill_at, write_points
from warm import Zygote

# A run as it is by default, and two whose masks are drawn again from evidence: with a
# warm-up and without one.
SWEPT = {
    "sweep": "",
    "sweep-mid-run": "fedtiny(interval=1, blocks=2)",
    "sweep-no-warm-up": "prunefl(interval=1)",
}


def main() -> None:
    """Runs everything, or a part of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=20, help="on mosquitto")
    parser.add_argument("--other", type=int, default=5, help="on each other broker")
    parser.add_argument("--brokers", nargs="*", default=BROKERS, choices=BROKERS)
    parser.add_argument("--kinds", type=int, default=10, help="seeds of each kind")
    parser.add_argument("--no-sweep", action="store_true")
    parser.add_argument("--json", type=Path, help="file to write")
    chosen = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="chaos-"))
    found: dict[str, Any] = {"machine": platform.machine(), "brokers": {}, "seeds": []}
    bad = 0
    for kind in chosen.brokers:
        if missing(kind):
            print(f"{kind}: skipped, {missing(kind)}")
            continue
        count = chosen.seeds if kind == "mosquitto" else chosen.other
        results = [_seed(seed, kind, folder) for seed in range(1, count + 1)]
        found["seeds"] += [asdict(r) for r in results]
        found["brokers"][kind] = total = _total(results)
        bad += total["violations"]
        _write(chosen.json, found)
    found["kinds"] = {}
    for name in KINDS if chosen.kinds else ():
        found["kinds"][name] = total = _kind(name, chosen.kinds, folder / name)
        bad += total["violations"]
        _write(chosen.json, found)
    for name, algorithm in {} if chosen.no_sweep else SWEPT.items():
        found[name] = _sweep(folder / name, algorithm)
        bad += len(found[name]["violations"])
    _write(chosen.json, found)
    print(f"{'broker':14s} seeds violations committed aborted faults starts")
    for kind, total in found["brokers"].items():
        print(
            f"{kind:14s} {total['seeds']:5d} {total['violations']:10d} "
            f"{total['committed']:9d} {total['aborted']:7d} {total['faults']:6d} "
            f"{total['starts']:6d}"
        )
    for name in SWEPT.keys() & found.keys():
        sweep = found[name]
        print(
            f"{name}: write points: {sweep['points']}; kills: {sweep['kills']}, of "
            f"them reached: {sweep['reached']}; violations: {len(sweep['violations'])}"
        )
    if bad:
        print(f"logs: {folder}")
        sys.exit(1)
    shutil.rmtree(folder, ignore_errors=True)


def _seed(seed: int, kind: str, folder: Path) -> Result:
    zygote = Zygote()  # a new one each time: its children are its own
    try:
        result = run_seed(seed, kind, folder / f"{kind}-{seed}", zygote)
    finally:
        zygote.close()
    print(
        f"{kind} seed {seed}: {result.committed} committed, {result.aborted} aborted, "
        f"{result.seconds} s, {len(result.violations)} violations",
        flush=True,
    )
    for one in result.violations:
        print("VIOLATION", one[:2000], flush=True)
    return result


def _kind(name: str, seeds: int, folder: Path) -> dict[str, int]:
    zygote = Zygote()
    try:
        calm, wanted = quiet(KINDS[name], folder / "quiet", zygote)
        results = [calm]
        for seed in range(1, seeds + 1):
            where = folder / str(seed)
            results.append(compare_seed(KINDS[name], seed, where, zygote, wanted))
            for one in results[-1].violations:
                print("VIOLATION", one[:2000], flush=True)
    finally:
        zygote.close()
    total = _total(results)
    print(f"{name}: {total}", flush=True)
    return total


def _total(results: list[Result]) -> dict[str, int]:
    return {
        "seeds": len(results),
        "violations": sum(len(r.violations) for r in results),
        "committed": sum(r.committed for r in results),
        "aborted": sum(r.aborted for r in results),
        "faults": sum(sum(r.faults.values()) for r in results),
        "starts": sum(sum(r.starts.values()) for r in results),
    }


def _sweep(folder: Path, algorithm: str) -> dict[str, Any]:
    zygote = Zygote()
    try:
        points = write_points(zygote, folder / "points", algorithm)
        reached, violations, kills = 0, [], list(all_kills(points))
        for number, kill in enumerate(kills):
            died, wrong = kill_at(kill, zygote, folder / f"kill-{number}", algorithm)
            reached += died
            violations += [f"{kill}: {one}" for one in wrong]
            print(f"{kill}: {'died' if died else 'not reached'}, {wrong}", flush=True)
        return {
            "points": {who: len(places) for who, places in points.items()},
            "where": points,
            "kills": len(kills),
            "reached": reached,
            "violations": violations,
        }
    finally:
        zygote.close()


def _write(path: Path | None, found: dict[str, Any]) -> None:
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
