"""Choice of the density that a board can afford in a round's budget, with reasons."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from msgspec.structs import replace

from device_profiles.cost import Cost, Engine, check_ladder, cost_of
from device_profiles.errors import ProfileError
from device_profiles.schema import Caps, DeviceProfile
from device_profiles.workload import Workload

__all__ = ["Choice", "largest_density"]


@dataclass(frozen=True, slots=True)
class Choice:
    """The density a board can afford, and why not the next one.

    Attributes:
        density: The largest of the ladder that fits; None when none does.
        why: The reason in words, without the device's name.
        costs: Predicted cost of each density of the ladder.
    """

    density: float | None
    why: str
    costs: Mapping[float, Cost]

    def sentence(self, device: str) -> str:
        """The choice as one line for a log.

        Example:
            >>> Choice(0.1, "because 0.15 needs 612 MiB of 480", {}).sentence("pi-7")
            'pi-7: 0.10, because 0.15 needs 612 MiB of 480'
        """
        if self.density is None:
            return f"{device}: cannot take part, {self.why}"
        return f"{device}: {_decimal(self.density)}, {self.why}"


def largest_density(
    profile: DeviceProfile,
    workload: Workload,
    ladder: Sequence[float],
    round_budget_s: float,
    caps: Caps | None = None,
    *,
    value_bytes: float = 4.0,
    engine: Engine | None = None,
) -> Choice:
    """The largest density of the ladder inside memory, time, link, energy and disk.

    A board that is only too slow, at any density, takes part at the lowest with the
    training steps that fit (docs/adr/0024-time-never-refuses-a-board.md).

    Args:
        profile: The board, with what its owner allows.
        workload: What it trains.
        ladder: The run's densities, each in (0, 1].
        round_budget_s: Seconds a device may take for its part of a round.
        caps: The run's own caps; the stricter of them and the owner's counts.
        value_bytes: Bytes per kept value on the wire.
        engine: Which training engine runs; None takes the profile's own.

    Raises:
        ProfileError: An empty ladder, a density outside (0, 1], no time at all.
    """
    check_ladder(ladder)
    if not round_budget_s > 0:
        raise ProfileError(
            file="run",
            key="round_budget_s",
            expected=f"expected more than 0 seconds, got {round_budget_s}",
            remedy="Give each device at least a second.",
        )
    allowed = replace(profile, caps=profile.caps.tighten(caps or Caps()))
    costs = {
        density: cost_of(
            allowed, workload, density, value_bytes=value_bytes, engine=engine
        )
        for density in sorted(ladder, reverse=True)
    }
    return _choose(costs, allowed, round_budget_s, workload)


def _choose(
    costs: Mapping[float, Cost],
    profile: DeviceProfile,
    budget_s: float,
    workload: Workload,
) -> Choice:
    refused, steps = "", workload.steps
    for density, cost in costs.items():
        lacks = _lacks(cost, profile, budget_s)
        if not lacks:
            plenty = (
                f"the highest of the ladder: {_figure(cost.seconds, math.ceil)} s "
                f"of {_figure(budget_s, math.floor)}, "
                f"{_figure(cost.peak_mib, math.ceil)} MiB of {_ram_mib(profile)}"
            )
            return Choice(density, refused or plenty, costs)
        above = refused
        refused = f"because {_decimal(density)} needs {' and '.join(lacks)}"
        refused += _with_smaller(workload, density)
        some = _steps_within(cost, steps, budget_s)
        if density == min(costs) and some and not _lacks(cost, profile, math.inf):
            part = (
                f"{some} of {steps} steps a round, because all need "
                f"{_figure(cost.seconds, math.ceil)} s of "
                f"{_figure(budget_s, math.floor)}"
            )
            return Choice(density, f"{above}; {part}" if above else part, costs)
    return Choice(None, refused, costs)


def _with_smaller(workload: Workload, density: float) -> str:
    """Words for the smaller networks that batches of a density go through as well."""
    count = len(workload.passes_at(density)) - 1
    return f" with {count} smaller network{'s'[: count > 1]} beside" if count else ""


def _steps_within(cost: Cost, steps: int, budget_s: float) -> int:
    """Whole steps that fit beside the link."""
    room = budget_s - (cost.seconds - cost.training_seconds)
    return max(0, math.floor(room / max(cost.training_seconds / steps, 1e-12)))


def _lacks(cost: Cost, profile: DeviceProfile, budget_s: float) -> list[str]:
    """Resources that are short, in words: need, unit, have."""
    caps = profile.caps
    wanted: list[tuple[float | None, str, float | None]] = [
        (cost.peak_mib, "MiB", _ram_mib(profile)),
        (cost.seconds, "s", budget_s),
        (cost.bytes_up + cost.bytes_down, "bytes", caps.bytes_per_round),
        (cost.bytes_up + cost.bytes_down, "bytes a day", caps.bytes_per_day),
        (cost.joules, "J", caps.joules_per_round),
        (cost.disk_mib, "MiB on disk", profile.disk_free_mib),
    ]
    return [
        f"{_figure(need, math.ceil)} {unit} of {_figure(have, math.floor)}"
        for need, unit, have in wanted
        if need is not None and have is not None and need > have
    ]


def _ram_mib(profile: DeviceProfile) -> int:
    cap = profile.caps.ram_mib
    return profile.ram_mib if cap is None else min(cap, profile.ram_mib)


def _decimal(density: float) -> str:
    short = f"{density:.2f}"
    return short if float(short) == density else f"{density:g}"


def _figure(value: float, rounded: Callable[[float], int]) -> str:
    if value >= 100 or value == int(value):
        return str(rounded(value))
    return f"{rounded(10 * value) / 10:.1f}"
