"""Decisions on when and how hard a device may train, from what its sensors say."""

from __future__ import annotations

import datetime as dt
import functools
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from device_profiles import Caps
from device_profiles.hours import minutes_until_open
from edge_sdk.child_process import output_of
from edge_sdk.device.probe.board import clock_complaint
from edge_sdk.device.probe.sensors import Power, Thermal, read_power, read_thermal

__all__ = [
    "Conditions",
    "Go",
    "Pause",
    "Verdict",
    "decide",
    "read_conditions",
]


# The default ceiling: Raspberry Pi firmware slows down at 80 C, Jetsons a little later.
CELSIUS = 78.0
# Training resumes so much below the ceiling, or it would stop again within a step.
COOL_BY = 6.0
# Cooling from the ceiling takes a minute or two in a closed case.
COOL_S, BATTERY_S, METERED_S, DAY_S = 30.0, 300.0, 600.0, 1800.0
CLOCK_S = 60.0  # a board with a network gets its time from it


@dataclass(frozen=True, slots=True)
class Conditions:
    """Conditions of a device at one moment.

    Attributes:
        minute: Of the day, local time, 0 to 1439.
        thermal: Heat and throttling.
        power: Battery or mains.
        metered: Whether the link costs money by the byte; None if unknown.
        moved_today: Bytes over the link since local midnight.
        clock: What is wrong with the clock, in words; None if it can be believed.
    """

    minute: int
    thermal: Thermal
    power: Power
    metered: bool | None = None
    moved_today: int = 0
    clock: str | None = None


@dataclass(frozen=True, slots=True)
class Go:
    """Train."""


@dataclass(frozen=True, slots=True)
class Pause:
    """Do not train now; look again after so many seconds."""

    seconds: float
    why: str


Verdict: TypeAlias = Go | Pause


def decide(caps: Caps, now: Conditions, *, paused: bool = False) -> Verdict:
    """Decide whether a device may train now.

    Args:
        caps: What its owner allows.
        now: What it is in.
        paused: Whether it is pausing already: a hot board cools well below the ceiling
            before it resumes.

    Example:
        >>> cool = Thermal(60.0, False, "60.0 C")
        >>> decide(Caps(hours=("22:00-06:00",)), Conditions(720, cool, Power(False, 0)))
        Pause(seconds=36000.0, why='quiet until 22:00')
    """
    for found in (
        _quiet(caps, now),
        _hot(caps, now.thermal, paused=paused),
        _drained(caps, now.power),
        _costly(caps, now),
    ):
        if found is not None:
            return found
    return Go()


def _quiet(caps: Caps, now: Conditions) -> Pause | None:
    if caps.hours and now.clock is not None:
        return Pause(CLOCK_S, f"allowed hours cannot be kept: {now.clock}")
    minute = now.minute
    wait = minutes_until_open(caps.hours, minute)
    if wait is None:
        return Pause(DAY_S, "no hour of the day is allowed")
    if not wait:
        return None
    opens = (minute + wait) % (24 * 60)
    return Pause(60.0 * wait, f"quiet until {opens // 60:02d}:{opens % 60:02d}")


def _hot(caps: Caps, thermal: Thermal, *, paused: bool) -> Pause | None:
    if thermal.celsius is None:
        return None  # a board without a sensor relies on its own throttling
    ceiling = CELSIUS if caps.celsius is None else caps.celsius
    limit = ceiling - COOL_BY if paused else ceiling
    if thermal.celsius < limit:
        return None
    return Pause(COOL_S, f"{thermal.celsius:.0f} C, cooling below {limit:.0f}")


def _drained(caps: Caps, power: Power) -> Pause | None:
    least = caps.battery_percent
    if least is None or not power.on_battery or power.percent is None:
        return None
    if power.percent >= least:
        return None
    return Pause(BATTERY_S, f"battery at {power.percent} %, waiting for {least} %")


def _costly(caps: Caps, now: Conditions) -> Pause | None:
    if now.metered and not caps.metered:
        return Pause(METERED_S, "the link is metered")
    most = caps.bytes_per_day
    if most is not None and now.moved_today >= most:
        return Pause(DAY_S, f"{now.moved_today} bytes moved today of {most}")
    return None


def read_conditions(
    now: dt.datetime, *, moved_today: int = 0, root: Path = Path("/")
) -> Conditions:
    """Read this device's conditions from its clock and sensors.

    Args:
        now: Local time.
        moved_today: Bytes over the link since midnight, as the journal counts.
        root: Where ``sys`` is, for a copied tree.
    """
    return Conditions(
        60 * now.hour + now.minute,
        read_thermal(root),
        read_power(root),
        _metered(),
        moved_today,
        clock_complaint(now.date()),
    )


def _metered() -> bool | None:
    """As NetworkManager has it; None where it does not run. Asked once a minute."""
    return _metered_in(int(time.monotonic() // 60))


@functools.lru_cache(maxsize=1)
def _metered_in(_minute: int) -> bool | None:
    tool = shutil.which("nmcli")
    if tool is None:
        return None
    try:
        asked = (tool, "-t", "-f", "GENERAL.METERED", "device", "show")
        said = output_of(asked, timeout_s=5).stdout
    except (OSError, subprocess.TimeoutExpired):
        return None
    words = [line.partition(":")[2].strip() for line in said.splitlines()]
    return any(word.startswith("yes") for word in words) if words else None
