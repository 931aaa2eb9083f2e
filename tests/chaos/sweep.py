"""Every durable write point of coordinator and device, killed at once in turn.

A first run without faults lists where each process writes durably: the kind of write
(fsync, rename, commit) and the functions of ours that lead to it. Then, for each such
point, one run whose process dies by SIGKILL just before its first such write, and one
just after it; it starts again, and the history must be sound.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chaos.fleet import COORDINATOR, Fleet
from chaos.kinds import PATIENT
from warm import Zygote

__all__ = ["DEVICE", "Kill", "all_kills", "kill_at", "write_points"]

DEVICE = "dev-2"
ROUNDS = 2
# A device writes its journal for an order, an offer and a receipt, and each write syncs
# file and folder: the same place in the code, so its first six times are told apart.
TIMES = {COORDINATOR: 3, DEVICE: 6}


@dataclass(frozen=True)
class Kill:
    """One death: whose, at which write point, and on which side of it.

    A point without the functions that lead to it is any of those.
    """

    who: str
    point: str
    nth: int
    when: str

    def __str__(self) -> str:
        return f"{self.who} {self.when} time {self.nth} of {self.point}"


def write_points(
    zygote: Zygote, folder: Path, algorithm: str = ""
) -> dict[str, dict[str, int]]:
    """Coordinator and device -> its durable write points, and how often each wrote."""
    fleet = Fleet(folder, "mosquitto", zygote, rounds=ROUNDS, algorithm=algorithm)
    logs = {who: folder / f"writes-{who}" for who in (COORDINATOR, DEVICE)}
    for who, log in logs.items():
        fleet.once[who] = {"writes": str(log)}
    # Nobody dies here, so each device writes in each round, on a slow machine too.
    fleet.once[COORDINATOR]["waits"] = PATIENT
    try:
        fleet.start()
        fleet.wait_end()
    finally:
        fleet.close()
    return {
        who: dict(Counter(log.read_text().splitlines())) for who, log in logs.items()
    }


def all_kills(points: dict[str, dict[str, int]]) -> Iterator[Kill]:
    """Before and after each of the first times at each point."""
    for who, places in points.items():
        for place, times in places.items():
            for nth in range(1, min(times, TIMES[who]) + 1):
                yield Kill(who, place, nth, "before")
                yield Kill(who, place, nth, "after")


def kill_at(
    kill: Kill, zygote: Zygote, folder: Path, algorithm: str = ""
) -> tuple[bool, Sequence[str]]:
    """Whether the process died there, and what is wrong with the history after it."""
    fleet = Fleet(folder, "mosquitto", zygote, rounds=ROUNDS, algorithm=algorithm)
    options: dict[str, Any] = {
        "die_where": f"^{re.escape(kill.point)}",
        "die_at": kill.nth,
        "die": kill.when,
    }
    fleet.once[kill.who] = options
    try:
        fleet.start()
        try:
            fleet.wait_end()
        except TimeoutError as error:
            return fleet.starts[kill.who] > 1, [f"the run does not end: {error}"]
        return fleet.starts[kill.who] > 1, fleet.verdict()
    finally:
        fleet.close()
