"""Chaos by seed: `python tests/chaos/run.py --seed 7 --broker mosquitto`.

Prints the schedule, what the history checker found, and where the logs lie.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from chaos.brokers import BROKERS, missing
from chaos.faults import Fault, apply, schedule
from chaos.fleet import COORDINATOR, Fleet
from patience import patience
from warm import Zygote

from edge_sdk.transport.limits import BrokerLimits

__all__ = ["Result", "can_mount", "run_seed"]

LIMIT_S = 150.0  # a run that takes longer does not come to its end
LOOK_S = 0.03


@dataclass
class Result:
    """What a seed came to.

    Attributes:
        violations: In words; a run that does not end is one.
        committed: Rounds with a model, the warm-up too.
        aborted: Rounds closed without one.
        faults: How often each kind was done.
        starts: Starts of each process.
    """

    seed: int
    broker: str
    violations: list[str]
    committed: int
    aborted: int
    faults: dict[str, int] = field(default_factory=dict)
    starts: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    model: str = ""


def can_mount() -> bool:
    """Whether small disks can be made here."""
    return os.geteuid() == 0 and shutil.which("mount") is not None


def run_seed(
    seed: int,
    broker: str,
    folder: Path,
    zygote: Zygote,
    *,
    faults: tuple[Fault, ...] | None = None,
    rounds: int = 10,
    limit_s: float = LIMIT_S,
    options: Mapping[str, Any] | None = None,
    stop_at_first: bool = False,
    settings: tuple[str, str] = ("", ""),
    limits: BrokerLimits | None = None,
    at_start: Callable[[Fleet], None] = lambda _: None,
    at_end: Callable[[Fleet], None] = lambda _: None,
) -> Result:
    """One run under a seed's faults, and its verdict.

    Args:
        faults: Instead of the seed's own.
        options: For every process; see `chaos.child.prepare`.
        stop_at_first: End at the first violation that an open history shows.
        settings: As of `Fleet`.
        limits: As of `Fleet`.
        at_start: What is done when all are started.
        at_end: What looks at a run that came to its end.
    """
    disks = can_mount()
    if faults is None:
        faults = schedule(seed, rounds=rounds, devices=3, count=rounds + 4, disks=disks)
    fleet = Fleet(
        *(folder, broker, zygote),
        rounds=rounds,
        settings=settings,
        small_disks=any(fault.kind == "full disk" for fault in faults),
        options=options,
        limits=limits,
    )
    began, done = time.monotonic(), Counter[str]()
    try:
        fleet.start()
        at_start(fleet)
        try:
            _go(fleet, list(faults), done, limit_s, stop=stop_at_first)
        except TimeoutError as error:
            fleet.violations.append(f"the run does not end: {error}")
        if stop_at_first and fleet.violations:
            found = sorted(set(fleet.violations))
        else:
            found = fleet.verdict()
            at_end(fleet)
        phases = Counter(str(r["phase"]) for r in fleet.rows("rounds"))
        return Result(
            seed,
            broker,
            found,
            phases["done"],
            phases["aborted"],
            dict(done),
            dict(fleet.starts),
            round(time.monotonic() - began, 1),
            fleet.digest() if fleet.archive.checkpoints else "",
        )
    finally:
        fleet.close()


def _go(
    fleet: Fleet, faults: list[Fault], done: Counter[str], limit_s: float, *, stop: bool
) -> None:
    """Does the faults as the run goes on, until it is at its end."""
    due: list[tuple[float, int, Any]] = []
    began = time.monotonic()
    while fleet.exit_code(COORDINATOR) != 0:
        now = time.monotonic()
        if now - began > patience(limit_s):
            raise TimeoutError(f"round {fleet.round_now()}\n{fleet.logs()}")
        if stop and fleet.violations:
            return
        fleet.look()
        no = fleet.round_now()
        while faults and faults[0].round_no <= no:
            fault = faults.pop(0)
            due.append((now + fault.delay_ms / 1000, len(due), fault))
        for item in sorted(due, key=lambda i: i[:2]):
            at, _, what = item
            if at > now:
                continue
            due.remove(item)
            if isinstance(what, Fault):
                done[what.kind] += 1
                due.append((now + what.seconds, len(due), apply(what, fleet)))
            else:
                what()
        time.sleep(LOOK_S)
    for _, _, what in due:
        if not isinstance(what, Fault):
            what()
    fleet.wait_end(20)


def main() -> None:
    """Runs one seed and says what came of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--broker", choices=BROKERS, default="mosquitto")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--mutant", default="")
    parser.add_argument("--folder", type=Path, help="default: a new temporary one")
    chosen = parser.parse_args()
    if missing(chosen.broker):
        parser.error(missing(chosen.broker))
    for fault in schedule(
        chosen.seed,
        rounds=chosen.rounds,
        devices=3,
        count=chosen.rounds + 4,
        disks=can_mount(),
    ):
        print(fault)
    folder = chosen.folder or Path(tempfile.mkdtemp(prefix="chaos-"))
    zygote = Zygote()
    try:
        result = run_seed(
            chosen.seed,
            chosen.broker,
            folder,
            zygote,
            rounds=chosen.rounds,
            options={"mutant": chosen.mutant} if chosen.mutant else None,
        )
    finally:
        zygote.close()
    for key, value in asdict(result).items():
        if key != "violations":
            print(f"{key}: {value}")
    for violation in result.violations:
        print("VIOLATION", violation)
    print(f"logs: {folder}")
    sys.exit(1 if result.violations else 0)


if __name__ == "__main__":
    main()
