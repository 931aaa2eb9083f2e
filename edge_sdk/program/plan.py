"""Memory plan of a schedule: where each tensor lies, and how many bytes that takes.

Tensors are placed first fit over their lifetimes: a tensor lives from the step that
writes it to the last that reads it.
"""

from __future__ import annotations

from dataclasses import dataclass

from edge_sdk.program.schedule import Schedule

__all__ = ["Plan", "lane_width", "plan"]

_ALIGNED = 16  # reals: 64 bytes of float32


@dataclass(frozen=True, slots=True)
class Plan:
    """A schedule with a place for each of its tensors.

    Attributes:
        schedule: The steps.
        lanes: Samples side by side in memory: 4, 8 or 16.
        blocks: Most blocks of so many samples that run at once.
        offsets: Of each tensor, in reals.
        reals: Of the whole arena.
    """

    schedule: Schedule
    lanes: int
    blocks: int
    offsets: tuple[int, ...]
    reals: int

    @property
    def nbytes(self) -> int:
        """Bytes of the arena in float32."""
        return 4 * self.reals


def lane_width(samples: int, vector_lanes: int) -> int:
    """Lanes per block, 4, 8 or 16, for the least time over one batch.

    A padded lane costs as much as a valid one, and lanes narrower than the hardware's
    vectors leave part of each idle.

    Args:
        samples: In a batch.
        vector_lanes: Reals in one of the processor's vectors.

    Example:
        >>> lane_width(32, 8), lane_width(20, 4)
        (16, 4)
    """
    return min(
        (16, 8, 4),
        key=lambda n: -(-samples // n) * n * max(1, vector_lanes // n),
    )


def plan(schedule: Schedule, *, lanes: int, blocks: int) -> Plan:
    """Places a schedule's tensors for chunks of so many blocks."""
    count = len(schedule.sizes)
    last = [-1] * count
    for at, step in enumerate(schedule.steps):
        for tensor in (*step.reads, *step.writes):
            last[tensor] = at
    ending: dict[int, list[int]] = {}
    for tensor, at in enumerate(last):
        ending.setdefault(at, []).append(tensor)
    offsets, free = [0] * count, _Gaps()
    placed: set[int] = set()
    for at, step in enumerate(schedule.steps):
        for tensor in step.writes:
            if tensor not in placed:
                placed.add(tensor)
                size = _rounded(schedule.sizes[tensor] * lanes * blocks)
                offsets[tensor] = free.take(size)
        for tensor in ending.get(at, ()):
            size = _rounded(schedule.sizes[tensor] * lanes * blocks)
            free.give(offsets[tensor], size)
    return Plan(schedule, lanes, blocks, tuple(offsets), max(free.top, _ALIGNED))


def _rounded(reals: int) -> int:
    return -(-reals // _ALIGNED) * _ALIGNED


class _Gaps:
    """Free stretches below the highest place ever taken, in ascending order."""

    def __init__(self) -> None:
        self.top = 0
        self._gaps: list[tuple[int, int]] = []  # (begin, end)

    def take(self, size: int) -> int:
        for k, (begin, end) in enumerate(self._gaps):
            if end - begin >= size:
                self._gaps[k : k + 1] = (
                    [(begin + size, end)] if end - begin > size else []
                )
                return begin
        if self._gaps and self._gaps[-1][1] == self.top:
            begin, _ = self._gaps.pop()
        else:
            begin = self.top
        self.top = begin + size
        return begin

    def give(self, begin: int, size: int) -> None:
        gaps = sorted([*self._gaps, (begin, begin + size)])
        self._gaps = gaps[:1]
        for start, end in gaps[1:]:
            if start == self._gaps[-1][1]:
                self._gaps[-1] = (self._gaps[-1][0], end)
            else:
                self._gaps.append((start, end))
