"""What is done to a federation, drawn from a seed; and how each thing is done.

A fault is bound to the run's progress (a round, and milliseconds into it), not to the
clock, so that a seed hurts a slow machine at the same places as a fast one.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Collection
from dataclasses import dataclass

import numpy as np
from chaos.fleet import COORDINATOR, Fleet
from chaos.proxy import Weather

__all__ = ["KINDS", "Fault", "apply", "schedule"]

# Kind and how often it is drawn.
KINDS = {
    "kill device": 4,
    "kill coordinator": 4,
    "kill broker": 3,
    "die at a write": 6,  # of coordinator or device
    "die at a receipt": 3,  # at the commit that a receipt waits for, or just after it
    "power cut": 1,  # everything at once
    "stop": 3,  # SIGSTOP, later SIGCONT: a zombie
    "slow": 2,
    "narrow": 1,
    "cut after bytes": 2,
    "deaf": 2,  # one direction only
    "mute": 2,  # the other one
    "silence": 1,  # both, with the connection left open
    "half-open": 2,
    "unreachable": 1,
    "full disk": 2,
    "clock": 2,
}


@dataclass(frozen=True)
class Fault:
    """One thing to do.

    Attributes:
        round_no: When this round has tasks ...
        delay_ms: ... and so long after that.
        kind: One of `KINDS`.
        target: Whom it hits.
        seconds: How long, or until it comes back.
        amount: Bytes, seconds of clock, or the number of a write; negative numbers of
            a write mean just after it.
    """

    round_no: int
    delay_ms: int
    kind: str
    target: str
    seconds: float
    amount: int

    def __str__(self) -> str:
        return (
            f"round {self.round_no:2d} +{self.delay_ms:4d} ms  {self.kind:15s} "
            f"{self.target:11s} {self.seconds:4.1f} s  {self.amount}"
        )


def schedule(
    seed: int,
    *,
    rounds: int,
    devices: int,
    count: int = 14,
    disks: bool = True,
    only: Collection[str] = tuple(KINDS),
) -> tuple[Fault, ...]:
    """The faults of a seed, in order; of these kinds, full disks where they can be."""
    rng = np.random.default_rng(seed)
    kinds = [k for k in KINDS if k in only and (disks or k != "full disk")]
    weights = np.array([KINDS[k] for k in kinds], float)
    faults = []
    for _ in range(count):
        kind = kinds[int(rng.choice(len(kinds), p=weights / weights.sum()))]
        anyone = [COORDINATOR, *(f"dev-{i}" for i in range(1, devices + 1))]
        pool = {
            "kill device": anyone[1:],
            "kill coordinator": anyone[:1],
            "die at a receipt": anyone[:1],
            "kill broker": ["broker"],
            "power cut": ["all"],
            "stop": [*anyone, "broker"],
            "die at a write": [COORDINATOR, *anyone],  # half of them the coordinator
        }.get(kind, anyone)
        amount = {
            "cut after bytes": int(rng.integers(200, 60_000)),
            "narrow": int(rng.integers(2_000, 40_000)),
            "clock": int(rng.choice([-400 * 86_400, -3600, 3600, 400 * 86_400])),
            "die at a write": int(rng.integers(1, 60)) * int(rng.choice([-1, 1])),
            # One commit may carry all receipts of a round.
            "die at a receipt": int(rng.integers(1, 3)) * int(rng.choice([-1, 1])),
        }.get(kind, 0)
        target = pool[int(rng.integers(len(pool)))]
        if kind == "die at a write" and target != COORDINATOR:
            amount = int(np.sign(amount)) * (abs(amount) % 12 + 1)
        faults.append(
            Fault(
                round_no=int(rng.integers(0, rounds + 1)),
                delay_ms=int(rng.integers(0, 400)),
                kind=kind,
                target=target,
                seconds=round(float(rng.uniform(0.1, 1.0) ** 2 * 6), 1),
                amount=amount,
            )
        )
    return tuple(sorted(faults, key=lambda f: (f.round_no, f.delay_ms)))


def apply(fault: Fault, fleet: Fleet) -> Callable[[], None]:  # noqa: C901 - one case per kind
    """Does it; returns what ends it after `fault.seconds`."""
    target, gate = fault.target, fleet.gates.get(fault.target)
    back = min(fault.seconds, 2.0)
    match fault.kind:
        case "kill device" | "kill coordinator":
            fleet.kill(target, again_after_s=back)
        case "kill broker":
            fleet.kill_broker(again_after_s=back)
        case "die at a write" | "die at a receipt":
            receipts = r"^commit .*(server\.loop\._take|\.freeze)"
            fleet.once[target] = {
                "die_at": abs(fault.amount),
                "die": "before" if fault.amount > 0 else "after",
                "die_where": receipts if fault.kind == "die at a receipt" else "",
            }
            fleet.kill(target)
        case "power cut":
            fleet.kill_broker(again_after_s=back / 2)
            for name in fleet.names:
                fleet.kill(name, again_after_s=back)
        case "stop":
            if target == "broker":
                fleet.broker.signal(signal.SIGSTOP)
                return lambda: fleet.broker.signal(signal.SIGCONT)
            fleet.signal(target, signal.SIGSTOP)
            return lambda: fleet.signal(target, signal.SIGCONT)
        case "full disk":
            fleet.fill_disk(target)
            return lambda: fleet.free_disk(target)
        case "clock":
            fleet.set_clock(target, fault.amount)
        case _:
            assert gate is not None
            gate.weather = {
                "slow": Weather(latency_s=0.15),
                "narrow": Weather(rate=fault.amount),
                "cut after bytes": Weather(cut_after=fault.amount),
                "deaf": Weather(hold_down=True),
                "mute": Weather(hold_up=True),
                "silence": Weather(hold_up=True, hold_down=True),
                "unreachable": Weather(refuse=True),
                "half-open": Weather(),
            }[fault.kind]
            if fault.kind == "half-open":
                gate.half_open()
            elif fault.kind in ("unreachable", "cut after bytes"):
                gate.sever()

            def clear_up() -> None:
                gate.weather = Weather()

            return clear_up
    return lambda: None
