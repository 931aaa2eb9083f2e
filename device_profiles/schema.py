"""`DeviceProfile`: what one board can afford, as checked data with its provenance."""

from __future__ import annotations

import datetime as dt
import math
from typing import Annotated, Literal, TypeAlias, TypeVar

import msgspec
from msgspec import Meta

from device_profiles.errors import ProfileError
from device_profiles.hours import check_windows, common

__all__ = [
    "LEAST_RATE",
    "Caps",
    "DeviceProfile",
    "Engine",
    "Provenance",
    "parse_profile",
]

Engine: TypeAlias = Literal["masked", "sparse"]

# Upper ends are ten times the largest board known to us: beyond is a unit mistake.
Mebibytes = Annotated[int, Meta(ge=1, le=16 * 1024 * 1024)]
LEAST_RATE = 1e-5  # a hundred times below a microcontroller's; less is a unit mistake
Rate = Annotated[float, Meta(ge=LEAST_RATE, le=1e6)]
Number = TypeVar("Number", int, float)
Bytes = Annotated[int, Meta(ge=1, le=1 << 60)]  # fits the integers of any database
LEAST_SHARE = 1e-3  # of the processors' time: below, a step never ends
Milliseconds = Annotated[float, Meta(ge=0, le=60_000)]


def _least(mine: Number | None, theirs: Number | None) -> Number | None:
    if mine is None or theirs is None:
        return mine if theirs is None else theirs
    return min(mine, theirs)


def _most(mine: int | None, theirs: int | None) -> int | None:
    if mine is None or theirs is None:
        return mine if theirs is None else theirs
    return max(mine, theirs)


def _refuse_impossible(struct: msgspec.Struct) -> None:
    # TOML knows inf and nan, and code can skip the decoder's limits; time cannot
    # be divided by either.
    for name in struct.__struct_fields__:
        value = getattr(struct, name)
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"{name} must be a finite number, not {value}")
        if isinstance(value, int | float) and value < 0:
            raise ValueError(f"{name} must not be negative, and is {value}")


class Provenance(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Origin of a profile's numbers.

    Attributes:
        kind: ``measured`` on the board itself, or ``estimate`` before one is at hand.
        source: The program that measured, or the documents behind the estimate.
        on: The day of it.
        notes: Key -> its own source, for numbers that differ from `source`.
    """

    kind: Literal["measured", "estimate"]
    source: Annotated[str, Meta(min_length=1)]
    on: dt.date
    notes: dict[str, str] = msgspec.field(default_factory=dict)


class Caps(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Limits that an owner sets on a board's use; None is no limit.

    Attributes:
        ram_mib: Most memory the agent may hold.
        cpu_share: Share of the processors' time lent to training, [0.001, 1].
        bytes_per_round: Most bytes a round may move over the link, both ways together.
        joules_per_round: Most energy a round of training may take.
        bytes_per_day: Most bytes a day may move over the link, both ways together.
        hours: When it may train, local time, such as ``("22:00-06:00",)``; empty is
            always.
        metered: Whether it may train while its link costs money by the byte.
        battery_percent: Least charge at which it may train on battery.
        celsius: Hottest it may get before training pauses.
    """

    ram_mib: Mebibytes | None = None
    cpu_share: Annotated[float, Meta(ge=LEAST_SHARE, le=1)] = 1.0
    bytes_per_round: Bytes | None = None
    joules_per_round: Annotated[float, Meta(gt=0, le=1e9)] | None = None
    bytes_per_day: Bytes | None = None
    hours: tuple[str, ...] = ()
    metered: bool = True
    battery_percent: Annotated[int, Meta(ge=0, le=100)] | None = None
    celsius: Annotated[float, Meta(ge=20, le=120)] | None = None

    def __post_init__(self) -> None:
        _refuse_impossible(self)
        check_windows(self.hours)

    def tighten(self, other: Caps) -> Caps:
        """The stricter of the two, key by key.

        Example:
            >>> both = Caps(ram_mib=512).tighten(Caps(ram_mib=900, cpu_share=0.5))
            >>> both.ram_mib, both.cpu_share
            (512, 0.5)
        """
        return Caps(
            ram_mib=_least(self.ram_mib, other.ram_mib),
            cpu_share=min(self.cpu_share, other.cpu_share),
            bytes_per_round=_least(self.bytes_per_round, other.bytes_per_round),
            joules_per_round=_least(self.joules_per_round, other.joules_per_round),
            bytes_per_day=_least(self.bytes_per_day, other.bytes_per_day),
            hours=common(self.hours, other.hours),
            metered=self.metered and other.metered,
            battery_percent=_most(self.battery_percent, other.battery_percent),
            celsius=_least(self.celsius, other.celsius),
        )


class DeviceProfile(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True
):
    """Abilities of one board. Rates are the whole board's, sustained.

    Attributes:
        board: Name of the board, as in the catalogue or as it calls itself.
        ram_mib: Memory free for the agent, its libraries included.
        cores: Processor cores.
        simd: Vector instruction sets the kernels may use, such as ``asimd``, ``avx2``.
        train_gflops: Float32 rate of dense forward and backward passes in training.
        memory_gb_s: Memory traffic, bytes read plus bytes written.
        step_overhead_ms: Time of a training step that no example pays for, Python and
            dispatch, in a network of fifty operator calls; others scale.
        uplink_mbit_s: To the broker.
        downlink_mbit_s: From the broker.
        rtt_ms: There and back, to the broker.
        disk_free_mib: For the journal, the model and one update.
        watts: Power drawn while training; None when unknown.
        pool_m_s: Millions of elements a second that max pooling looks at; None takes
            a hundred per core.
        engine: The engine that `train_gflops` was measured on; None before a probe.
        runtime_mib: Memory of the process before the model comes into it, as a probe
            saw it; None takes the figure of `device_profiles.memory`.
        caps: What the owner allows of it.
        provenance: Where the numbers come from.
    """

    board: Annotated[str, Meta(min_length=1, max_length=64)]
    ram_mib: Mebibytes
    cores: Annotated[int, Meta(ge=1, le=1024)]
    simd: tuple[str, ...]
    train_gflops: Rate
    memory_gb_s: Rate
    step_overhead_ms: Milliseconds
    uplink_mbit_s: Rate
    downlink_mbit_s: Rate
    rtt_ms: Milliseconds
    disk_free_mib: Mebibytes
    watts: Annotated[float, Meta(gt=0, le=10_000)] | None = None
    pool_m_s: Rate | None = None
    engine: Engine | None = None
    runtime_mib: Mebibytes | None = None
    caps: Caps = Caps()
    provenance: Provenance

    def __post_init__(self) -> None:
        _refuse_impossible(self)


def parse_profile(data: object, *, file: str) -> DeviceProfile:
    """A profile from decoded TOML or msgpack.

    Args:
        data: A mapping of plain values.
        file: Where it came from, for the message.

    Raises:
        ProfileError: A key is unknown, missing, of the wrong type, or impossible.
    """
    try:
        return msgspec.convert(data, DeviceProfile)
    except msgspec.ValidationError as error:
        said, _, path = str(error).partition(" - at ")
        key = path.strip("`").removeprefix("$").removeprefix(".")
        raise ProfileError(file=file, key=key, expected=said) from error
