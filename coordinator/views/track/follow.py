"""Writes a run's figures somewhere, once or for as long as it runs."""

from __future__ import annotations

import importlib
import logging
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias

from coordinator.views.run_view import RunView
from coordinator.views.source import RunSource
from coordinator.views.track.points import Point, points
from edge_sdk.errors import DependencyError

__all__ = ["Place", "Sink", "track"]

log = logging.getLogger(__name__)
Place: TypeAlias = Literal["tensorboard", "mlflow"]
LOOK_S = 0.5  # between two looks at the ledger
SCORE_LOOKS = 240  # at a run that is done, for the scores of its last model


class Sink(Protocol):
    """Destination of figures."""

    @property
    def last(self) -> int:
        """The last round that is there already; -1 for none."""

    def write(self, round_no: int, found: list[Point]) -> None:
        """Adds one round's figures."""

    def close(self, *, is_over: bool) -> None:
        """End writing; the run itself may be over, too."""


def track(
    folder: Path,
    place: Place,
    where: str | None = None,
    *,
    follow: bool = False,
    stop: threading.Event | None = None,
) -> int:
    """Writes a run's figures to TensorBoard or MLflow.

    Args:
        folder: The run's folder.
        place: Which of them.
        where: TensorBoard's log directory (None: in the run's folder) or MLflow's
            tracking URI (None: as MLflow itself finds it).
        follow: Whether to go on until the run is done.
        stop: Ends following.

    Returns:
        How many rounds were written.

    Raises:
        StateError: If the folder holds no run, or one of another version.
        DependencyError: If the place's package is not installed.
        SettingsError: If `where` cannot be written to.
    """
    stop = stop or threading.Event()
    opener = _opener(place)
    source = RunSource(folder)
    sink: Sink | None = None
    last, written, version, looks = -1, 0, object(), 0
    while True:
        found, view = source.version(), source.run()
        looks += view.is_done  # its last model is scored after its last round
        scored = bool(view.rounds) and view.is_scored(view.rounds[-1])
        waits = follow and not scored and looks <= SCORE_LOOKS
        is_over = view.is_done and not waits
        if found != version or is_over:
            version = found
            if sink is None and points(view):  # a run has a name once it has a round
                sink = opener(folder, where, view, source.shown_settings())
                last = sink.last
            for no, new in _by_round(points(view, last, is_over=is_over)):
                if sink is not None:
                    sink.write(no, new)
                    last, written = no, written + 1
                    log.info("round %d: %d figures", no, len(new))
        if is_over or not follow or stop.wait(LOOK_S):
            if sink is not None:
                sink.close(is_over=view.is_done)
            return written


def _by_round(found: list[Point]) -> list[tuple[int, list[Point]]]:
    numbers = sorted({point.round_no for point in found})
    return [(no, [p for p in found if p.round_no == no]) for no in numbers]


class _Opener(Protocol):
    def __call__(
        self,
        folder: Path,
        where: str | None,
        view: RunView,
        settings: Mapping[str, Any],
    ) -> Sink: ...


def _opener(place: Place) -> _Opener:
    try:
        opener: _Opener = importlib.import_module(
            f"coordinator.views.track.{place}"
        ).opened
    except ImportError as error:
        raise DependencyError(
            f"{error.name} is not installed",
            remedy=f"Run `pip install 'flash-edge[{place}]'`.",
        ) from error
    return opener
