"""When and how hard a device may train: decisions over what its sensors say."""

from __future__ import annotations

import contextlib
import datetime as dt
import functools
import math
import os
import resource
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias, TypeVar

from device_profiles import Caps, Workload
from device_profiles.cost import payload_bytes
from device_profiles.hours import minutes_until_open
from device_profiles.memory import peak_mib
from device_profiles.schema import Engine
from edge_sdk.errors import EngineError
from edge_sdk.probe.board import clock_complaint
from edge_sdk.probe.ram import Ceiling, read_fields
from edge_sdk.probe.sensors import Power, Thermal, read_power, read_thermal

__all__ = [
    "Conditions",
    "Go",
    "Pause",
    "Verdict",
    "be_nice",
    "decide",
    "hold_to",
    "micro_batch",
    "ram_cap",
    "read_conditions",
    "rest_after_s",
    "shrinking",
    "threads_for",
]

T = TypeVar("T")
MIB = 1024 * 1024

# The default ceiling: Raspberry Pi firmware slows down at 80 C, Jetsons a little later.
CELSIUS = 78.0
# Training resumes so much below the ceiling, or it would stop again within a step.
COOL_BY = 6.0
# Cooling from the ceiling takes a minute or two in a closed case.
COOL_S, BATTERY_S, METERED_S, DAY_S = 30.0, 300.0, 600.0, 1800.0
CLOCK_S = 60.0  # a board with a network gets its time from it
NICENESS = 10
# Threads' stacks and the allocator's arenas take address space without being held.
HEADROOM_MIB = 64


@dataclass(frozen=True, slots=True)
class Conditions:
    """What a device is in, at one moment.

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
    """Whether a device may train now.

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


def micro_batch(
    workload: Workload,
    density: float,
    engine: Engine,
    *,
    ram_mib: float,
    runtime_mib: float | None = None,
    value_bytes: float = 4.0,
) -> int | None:
    """The most examples that may go through at once under a memory cap.

    Gradients of the parts add up to the batch's, so the update stays the same (batch
    norm apart: see `edge_sdk.training.accumulate`). Parts are equal in size as
    far as they can be.

    Returns:
        The workload's batch where it fits, else less; None where not even one does.
    """
    payload = payload_bytes(workload, density, value_bytes=value_bytes)

    def fits(size: int) -> bool:
        need = peak_mib(
            workload, density, payload, engine, batch=size, runtime_mib=runtime_mib
        )
        return need <= ram_mib

    whole = min(workload.batch, workload.examples)
    for parts in range(1, whole + 1):
        size = math.ceil(whole / parts)
        if fits(size):
            return size
    return None


def shrinking(run: Callable[[int], T], batch: int) -> T:
    """Runs with a batch, and with half of it each time memory does not suffice.

    Args:
        run: Takes the micro-batch size; must be repeatable from the start.
        batch: The size to try first.

    Raises:
        EngineError: Not even one example fits.
    """
    size = batch
    while True:
        try:
            return run(size)
        except (MemoryError, RuntimeError) as error:  # noqa: PERF203 - that is the loop
            if not _is_memory(error):
                raise
            if size == 1:
                raise EngineError(
                    "one example does not fit into the memory this device may use",
                    remedy="Raise caps.ram_mib, or take a lower density or model.",
                ) from error
            size = max(1, size // 2)


def _is_memory(error: BaseException) -> bool:
    return isinstance(error, MemoryError) or "can't allocate memory" in str(error)


def threads_for(cores: int, cpu_share: float) -> int:
    """Training threads: whole cores of the share lent, at least one."""
    return max(1, min(cores, math.floor(cores * cpu_share + 1e-9)))


def rest_after_s(step_s: float, *, cores: int, cpu_share: float) -> float:
    """Seconds to rest after a step, so that training keeps to its share.

    Only what whole threads do not already hold back: half of four cores is two threads
    and no rest, a tenth of four is one thread and a rest of one and a half steps.
    """
    threads = threads_for(cores, cpu_share)
    busy = threads / cores
    return max(0.0, step_s * (busy / cpu_share - 1.0))


def be_nice(niceness: int = NICENESS) -> None:
    """Lowers this process's priority; whatever else the board does comes first."""
    with contextlib.suppress(OSError):  # already nicer, or not allowed
        os.setpriority(os.PRIO_PROCESS, 0, niceness)


def ram_cap(caps: Caps, found: Sequence[Ceiling]) -> int | None:
    """The hard cap in MiB: the owner's, and any limit the process is under already.

    Args:
        caps: What the owner allows.
        found: Control groups and resource limits over this process.

    Returns:
        None where neither says anything: then the board's own memory is the limit.
    """
    limits = [one.free_mib for one in found]
    if caps.ram_mib is not None:
        limits.append(caps.ram_mib)
    return min(limits, default=None)


@contextlib.contextmanager
def hold_to(ram_mib: int) -> Iterator[None]:
    """Caps this process's memory: an allocation fails instead of the kernel killing.

    Built on RLIMIT_DATA, which counts address space; what is reserved already and not
    held is allowed for, and some headroom for thread stacks.

    Args:
        ram_mib: Most anonymous memory.

    Raises:
        EngineError: The process holds more already.
    """
    status = read_fields(Path("/proc/self/status"))
    held, mapped = status.get("RssAnon", 0) / 1024, status.get("VmData", 0) / 1024
    if held > ram_mib:
        raise EngineError(
            f"the process holds {held:.0f} MiB, more than the cap of {ram_mib}",
            remedy="Raise caps.ram_mib: importing torch alone takes over 200 MiB.",
        )
    before = resource.getrlimit(resource.RLIMIT_DATA)
    limit = int((mapped + ram_mib - held + HEADROOM_MIB) * MIB)
    if before[1] != resource.RLIM_INFINITY:
        limit = min(limit, before[1])
    resource.setrlimit(resource.RLIMIT_DATA, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)


def read_conditions(
    now: dt.datetime, *, moved_today: int = 0, root: Path = Path("/")
) -> Conditions:
    """What this device is in.

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
        said = subprocess.run(  # noqa: S603 - a fixed command
            [tool, "-t", "-f", "GENERAL.METERED", "device", "show"],
            capture_output=True,
            text=True,
            timeout=5,
            check=False,
        ).stdout
    except (OSError, subprocess.TimeoutExpired):
        return None
    words = [line.partition(":")[2].strip() for line in said.splitlines()]
    return any(word.startswith("yes") for word in words) if words else None
