"""Simulated devices: what each affords, how long it takes, who makes it into a round.

Time is virtual: a straggler's seconds come from its board's profile, and who is late is
decided by the round's own state machine before anybody trains. So a straggler costs no
wall time, and nobody trains for nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from coordinator.densities import assign
from coordinator.rounds.cohort import choose, generator
from coordinator.rounds.deadlines import over_selected
from coordinator.rounds.state import (
    Accepted,
    Deadline,
    Event,
    Failed,
    GiveUp,
    Planned,
    Round,
    RoundPhase,
    Selected,
    TaskPhase,
    advance,
    quorum_of,
)
from coordinator.simulation.settings import FleetGroup, SimulationSettings
from device_profiles import Caps, Workload, load_board
from device_profiles.cost import cost_of
from device_profiles.schema import DeviceProfile
from edge_sdk.errors import RunError, SettingsError

__all__ = [
    "RoundParticipants",
    "SimulatedDevice",
    "SimulatedFleet",
    "deal",
    "make_fleet",
]

SLACK = 3.0  # the deadline, in times of the slowest device's expected seconds


@dataclass(frozen=True)
class SimulatedDevice:
    """One device.

    Attributes:
        folder: Where its examples are.
        examples: How many.
        affords: The largest of the run's densities that it can train at.
        seconds: Density to its part of a round, in virtual seconds.
        board: Whose profile it has; empty where it takes no time.
    """

    folder: Path
    examples: int
    affords: float
    seconds: Mapping[float, float]
    board: str = ""


@dataclass(frozen=True)
class RoundParticipants:
    """Participants of a round.

    Attributes:
        asked: Every device that was asked, sorted.
        accepted: Those whose update counts, sorted.
        seconds: What each asked device takes; absent for one that vanished.
        clock_s: Virtual seconds until the round closed.
        note: Why it was given up; empty otherwise.
    """

    asked: tuple[str, ...]
    accepted: tuple[str, ...]
    seconds: Mapping[str, float]
    clock_s: float
    note: str


@dataclass(frozen=True)
class SimulatedFleet:
    """All devices, and how unruly they are."""

    devices: Mapping[str, SimulatedDevice]
    jitter: float
    dropout: float
    seed: int

    @property
    def affordable(self) -> dict[str, float]:
        """Device to the density it affords."""
        return {name: one.affords for name, one in self.devices.items()}

    @property
    def timed(self) -> bool:
        """True if some device takes time or may vanish."""
        slow = any(any(d.seconds.values()) for d in self.devices.values())
        return slow or self.dropout > 0

    def cohort(
        self, no: int, count: int, unable: Collection[str] = ()
    ) -> tuple[str, ...]:
        """Devices to ask in a round: more than wanted where some may be late.

        Args:
            no: The round.
            count: Updates wanted.
            unable: Devices that cannot train.
        """
        able = [device for device in self.devices if device not in unable]
        wanted = over_selected(count, len(able)) if self.timed else count
        return choose(self.seed, no, able, wanted)

    def play(
        self,
        no: int,
        densities: Mapping[str, float],
        goal: int,
        *,
        attempt: int = 0,
        kept: Collection[str] = (),
    ) -> RoundParticipants:
        """Plays a round's events in virtual time through the round's state machine.

        Args:
            no: The round.
            densities: Each asked device and the density it trains at.
            goal: Updates wanted.
            attempt: How often the round was given up before: others vanish then.
            kept: Devices of earlier attempts whose updates are here.
        """
        asked = tuple(sorted(densities))
        rng = generator(self.seed, no, 2 + 16 * attempt)
        expected = [self.devices[d].seconds[densities[d]] for d in asked]
        noise = np.exp(self.jitter * rng.standard_normal(len(asked)))
        gone = rng.random(len(asked)) < self.dropout
        took = {
            device: float(second * factor)
            for device, second, factor, lost in zip(
                asked, expected, noise, gone, strict=True
            )
            if not lost
        }
        limit = SLACK * max(expected, default=0.0)
        events: list[tuple[float, str, Event]] = [
            (at, device, Accepted(device)) for device, at in took.items()
        ]
        events += [(limit, d, Failed(d)) for d in asked if d not in took]
        events.append((limit, "~", Deadline()))  # after all names: in time is in
        here = dict.fromkeys(kept, TaskPhase.ACCEPTED)
        state, _ = advance(Round(no, goal, quorum_of(goal), tasks=here), Planned())
        state, _ = advance(state, Selected(asked))
        clock, note = 0.0, ""
        for at, _, event in sorted(events, key=lambda e: e[:2]):
            state, effects = advance(state, event)
            clock = at
            note = next((e.why for e in effects if isinstance(e, GiveUp)), "")
            if state.phase is not RoundPhase.RUN:
                break
        accepted = [d for d in asked if state.tasks[d] is TaskPhase.ACCEPTED]
        return RoundParticipants(asked, tuple(sorted(accepted)), took, clock, note)


def deal(shares: Sequence[float], devices: int, seed: int) -> list[list[int]]:
    """Devices of each group of a fleet, by their places in the order of their names.

    Args:
        shares: Of each group; all sum to 1.
        devices: How many there are.
        seed: The run's.
    """
    order = np.random.default_rng([seed, 0xF1EE]).permutation(devices)
    ends = np.rint(np.cumsum(shares) * devices).astype(int)
    return [part.tolist() for part in np.split(order, ends)[: len(shares)]]


def make_fleet(
    folders: Mapping[str, Path],
    examples: Mapping[str, int],
    workload: Workload | None,
    settings: SimulationSettings,
) -> SimulatedFleet:
    """The fleet of a simulation; groups are dealt out by a seeded shuffle.

    Args:
        folders: Device to where its examples are.
        examples: Device to how many it has.
        workload: Of one example's round; None where no group names a board.
        settings: The run's.

    Raises:
        SettingsError: If there are fewer devices than a round wants.
        RunError: If a board affords none of the densities.
    """
    names = sorted(folders)
    wanted = max(settings.cohort, 1)
    if len(names) < wanted:
        raise SettingsError(
            f"key cohort: a round wants {wanted} updates and there are {len(names)} "
            "devices",
            remedy="Lower cohort, or simulate more devices.",
        )
    groups = settings.fleet or [FleetGroup(share=1.0)]
    dealt = deal([group.share for group in groups], len(names), settings.seed)
    devices: dict[str, SimulatedDevice] = {}
    for group, members in zip(groups, dealt, strict=True):
        for i in members:
            name, work = names[i], None
            if workload is not None:
                work = replace(workload, examples=examples[name])
            devices[name] = _one(group, folders[name], examples[name], work, settings)
    return SimulatedFleet(devices, settings.jitter, settings.dropout, settings.seed)


def _one(
    group: FleetGroup,
    folder: Path,
    examples: int,
    work: Workload | None,
    settings: SimulationSettings,
) -> SimulatedDevice:
    ladder = settings.densities
    if not group.board or work is None:
        affords = group.density or 1.0
        levels = {*ladder, 1.0}
        return SimulatedDevice(folder, examples, affords, dict.fromkeys(levels, 0.0))
    profile, bytes_per_round = load_board(group.board), group.bytes_per_round
    caps = Caps(bytes_per_round=bytes_per_round) if bytes_per_round else None
    seconds = _seconds(profile, work, ladder)
    if group.density:
        return SimulatedDevice(folder, examples, group.density, seconds, group.board)
    choice = assign({"it": profile}, work, ladder, settings.round_budget_s, caps)["it"]
    if choice.density is None:
        raise RunError(
            f"board {group.board} can take part at none of {ladder}: {choice.why}",
            remedy="Lower the densities, or raise round_budget_s or the caps.",
        )
    return SimulatedDevice(folder, examples, choice.density, seconds, group.board)


def _seconds(
    profile: DeviceProfile, work: Workload, ladder: Sequence[float]
) -> dict[float, float]:
    return {d: cost_of(profile, work, d).seconds for d in {*ladder, 1.0}}
