"""`Tolerance`: what a rounded format may lose, with its limits checked."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite

from edge_sdk.errors import ExportError

__all__ = ["ACCURACY_POINTS", "LOSS_PERCENT", "Tolerance"]

ACCURACY_POINTS = 0.5
LOSS_PERCENT = 10.0


@dataclass(frozen=True)
class Tolerance:
    """Losses on evaluation examples that a lossy format is allowed.

    Attributes:
        accuracy_points: Percentage points of accuracy; below 0 it has to gain.
        loss_percent: By how much the loss may grow where outputs are no answers.

    Raises:
        ExportError: If one of them is no finite number, or `loss_percent` is below 0.
    """

    accuracy_points: float = ACCURACY_POINTS
    loss_percent: float = LOSS_PERCENT

    def __post_init__(self) -> None:
        """Refuses what no comparison could fail."""
        given: dict[str, object] = vars(self)
        for key, value in given.items():
            if not isinstance(value, int | float) or not isfinite(value):
                raise ExportError(
                    f"{key} is {value!r}", remedy="Give a number, such as 1."
                )
        if self.loss_percent < 0:
            raise ExportError(
                f"loss_percent is {self.loss_percent}",
                remedy="Give 0, or a number above.",
            )
