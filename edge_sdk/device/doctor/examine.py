"""Every check there is, in the order in which to mend."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from edge_sdk.device.doctor import board, link, programs
from edge_sdk.device.doctor.check import Check, DoctorTarget

__all__ = ["examine"]

CHECKS: Sequence[Callable[[DoctorTarget], Check]] = (
    board.word_size,
    board.clock,
    board.ram,
    board.disk,
    board.simd,
    programs.torch,
    programs.kernels,
    programs.engine,
    board.profile,
    programs.examples,
    programs.memory,
    board.thermal,
    link.broker,
    link.packets,
    link.identity,
    link.tls,
)


def examine(patient: DoctorTarget) -> tuple[Check, ...]:
    """Runs every check; none of them changes anything."""
    return tuple(check(patient) for check in CHECKS)
