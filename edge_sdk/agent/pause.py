"""Pauses that the owner's limits ask for, and when the coordinator hears of them."""

from __future__ import annotations

from dataclasses import dataclass

from edge_sdk.device.limits.decision import Pause, Verdict
from edge_sdk.wire.messages import Wait

__all__ = ["TrainingPause", "held"]


@dataclass(frozen=True)
class TrainingPause:
    """The reason and the end of a pause in which a device asks for no work.

    Attributes:
        why: What the owner's limits say; "" where they let it work.
        back_at: Monotonic seconds at which it asks again: of the pause, or of the
            coordinator's WAIT.
    """

    why: str = ""
    back_at: float = 0.0


def held(
    hold: TrainingPause, verdict: Verdict, now: float
) -> tuple[TrainingPause, Wait] | None:
    """The next hold and how it is told, or None where the coordinator knows as much.

    A pause is told when it begins, when it lasts longer than told, and when it ends.

    Example:
        >>> from edge_sdk.device.limits.decision import Go
        >>> warm = Pause(60.0, "78 degrees")
        >>> first, said = held(TrainingPause(), warm, now=100.0)
        >>> first
        TrainingPause(why='78 degrees', back_at=160.0)
        >>> said
        Wait(ms=60000, why='78 degrees')
        >>> held(first, warm, now=130.0) is None
        True
        >>> held(first, warm, now=160.0)[0].back_at
        220.0
        >>> held(first, Go(), now=130.0)[0]
        TrainingPause(why='', back_at=0.0)
    """
    pausing = isinstance(verdict, Pause)
    told = now < hold.back_at if pausing else True
    if told and pausing == bool(hold.why):
        return None
    if not isinstance(verdict, Pause):
        return TrainingPause(), Wait(0, "")
    seconds, why = verdict.seconds, verdict.why
    return TrainingPause(why, now + seconds), Wait(int(1000 * seconds), why)
