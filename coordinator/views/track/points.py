"""Figures of a run so far: plain values, in the order of the rounds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from coordinator.views.round_view import RoundView
from coordinator.views.run_view import RunView

__all__ = ["Point", "points"]


@dataclass(frozen=True, slots=True)
class Point:
    """One figure of one round."""

    round_no: int  # the round; 0 is the warm-up
    at: float  # when the round closed, seconds since 1970 (UTC)
    name: str  # what it is, ``group/name``; densities and units are in the name
    value: float  # the figure


def points(
    view: RunView, after: int = -1, *, is_over: bool | None = None
) -> list[Point]:
    """The figures of all rounds that will not change any more.

    A round that is done waits for its score, unless a later one has been scored: an
    evaluation may be skipped for a newer model.

    Args:
        view: The run.
        after: Rounds up to this one are left out.
        is_over: Whether no more scores come; None if that follows from the run's state.
    """
    is_over = view.is_done if is_over is None else is_over
    settled = _settled(view, is_over=is_over)
    up = down = 0
    found: list[Point] = []
    for row in view.rounds:
        up, down = up + row.up_bytes, down + row.down_bytes
        if after < row.no <= settled and row.closed is not None:
            at = datetime.fromisoformat(row.closed).timestamp()
            totals = (("bytes/up_total", float(up)), ("bytes/down_total", float(down)))
            found.extend(
                Point(row.no, at, name, value)
                for name, value in (*_figures(row), *totals)
            )
    return found


def _settled(view: RunView, *, is_over: bool) -> int:
    """The last round whose figures are all there."""
    settled = -1
    for row in view.rounds:
        if row.closed is None:
            break
        waits = row.is_done and row.no > 0 and not view.is_scored(row)
        if is_over or not waits:
            settled = row.no
    return settled


def _figures(row: RoundView) -> Iterator[tuple[str, float]]:
    for density, metrics in (row.scores or {}).items():
        for metric, value in metrics.items():
            yield f"{metric}/density_{density}", float(value)
    yield "bytes/up", float(row.up_bytes)
    yield "bytes/down", float(row.down_bytes)
    yield "round/updates", float(row.accepted)
    yield "round/aborted", float(row.is_aborted)
    if row.seconds is not None:
        yield "round/seconds", row.seconds
