"""A run's figures as TensorBoard's event files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter  # needs the package tensorboard

from coordinator.views.run_view import RunView
from coordinator.views.track.points import Point
from edge_sdk.errors import SettingsError

__all__ = ["TensorBoard", "opened"]

SUFFIX = ".flash-edge"


class TensorBoard:
    """Event files in a log directory; those of an earlier call are replaced.

    Args:
        folder: The log directory; other files in it stay.

    Raises:
        SettingsError: If it cannot be written.
    """

    last = -1

    def __init__(self, folder: Path) -> None:
        try:
            for old in folder.glob(f"events.out.tfevents.*{SUFFIX}"):
                old.unlink()
            self._writer = SummaryWriter(str(folder), filename_suffix=SUFFIX)
        except OSError as error:
            raise SettingsError(
                f"{folder} cannot be written: {error.strerror}",
                remedy="Name another folder with --where.",
            ) from error

    def write(self, round_no: int, found: list[Point]) -> None:
        """Adds one round's figures."""
        for point in found:
            self._writer.add_scalar(
                point.name, point.value, round_no, walltime=point.at
            )
        self._writer.flush()

    def close(self, *, is_over: bool) -> None:
        """Close the event file."""
        self._writer.close()


def opened(
    folder: Path,
    where: str | None,
    _view: RunView,
    _settings: Mapping[str, Any],
) -> TensorBoard:
    """TensorBoard files in the folder named, or in one of the run's."""
    return TensorBoard(Path(where) if where else folder / "tensorboard")
