"""The cost model: what a round at a density costs a board, in time, memory, bytes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from device_profiles.errors import ProfileError
from device_profiles.memory import MIB, peak_mib
from device_profiles.schema import DeviceProfile, Engine
from device_profiles.step_time import round_terms
from device_profiles.workload import Workload

__all__ = ["Cost", "Engine", "check_ladder", "cost_of", "payload_bytes"]

# ANNOUNCE, TASK, NEED, DATA, RECEIPT and one re-ask.
ROUND_TRIPS = 6
# Model, journal's copy, update and outbox.
DISK_COPIES = 4


@dataclass(frozen=True, slots=True)
class Cost:
    """One round at one density on one board.

    Attributes:
        peak_mib: Most memory the agent holds while training.
        seconds: Download, training and upload together, at the lent processor share.
        training_seconds: Training alone.
        joules: Energy of training; None where the board's power is unknown.
        bytes_up: The update: kept values in the codec, the dense remainder in float32.
        bytes_down: The model, alike.
        disk_mib: Room needed for the model, the journal and the outbox.
    """

    peak_mib: float
    seconds: float
    joules: float | None
    bytes_up: int
    bytes_down: int
    disk_mib: float
    training_seconds: float = 0.0


def cost_of(
    profile: DeviceProfile,
    workload: Workload,
    density: float,
    *,
    value_bytes: float = 4.0,
    engine: Engine | None = None,
) -> Cost:
    """Predicts one round.

    Every masked layer is taken at the same density: which layers end up denser is
    known only after the warm-up.

    Args:
        profile: The board.
        workload: What it trains.
        density: Kept share of the masked weights, (0, 1].
        value_bytes: Bytes per kept value on the wire: 4 for fp32, 2 for fp16.
        engine: Which training engine runs; None takes the one that the profile was
            measured on, else the sparse one.

    Raises:
        ProfileError: A density outside (0, 1].
    """
    check_ladder((density,))
    runs = engine or profile.engine or "sparse"
    payload = payload_bytes(workload, density, value_bytes=value_bytes)
    work = round_terms(workload, density, runs)
    training = work.seconds(profile) / profile.caps.cpu_share
    link = 8e-6 * payload * (1 / profile.uplink_mbit_s + 1 / profile.downlink_mbit_s)
    return Cost(
        peak_mib=peak_mib(
            workload, density, payload, runs, runtime_mib=profile.runtime_mib
        ),
        seconds=training + link + ROUND_TRIPS * profile.rtt_ms / 1000,
        joules=None if profile.watts is None else profile.watts * training,
        bytes_up=payload,
        bytes_down=payload,
        disk_mib=DISK_COPIES * payload / MIB,
        training_seconds=training,
    )


def payload_bytes(
    workload: Workload, density: float, *, value_bytes: float = 4.0
) -> int:
    """One update on the wire: kept values in the codec, the rest in float32."""
    return round(workload.kept(density) * value_bytes) + 4 * workload.dense_numel


def check_ladder(ladder: Sequence[float]) -> None:
    """Refuses a ladder that is empty or leaves (0, 1].

    Raises:
        ProfileError: Names the densities that cannot be.
    """
    wrong = [density for density in ladder if not 0 < density <= 1]
    if wrong or not ladder:
        raise ProfileError(
            file="run",
            key="ladder",
            expected=f"expected densities in (0, 1], got {wrong or 'none'}",
            remedy="Name one density or more, such as 0.05, 0.1, 0.2.",
        )
