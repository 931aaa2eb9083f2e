"""`TimedExamples`: examples that say when each of them was recorded."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge_sdk.errors import DataError
from edge_sdk.tasks.task import Examples

__all__ = ["TimedExamples"]


@dataclass(frozen=True, slots=True, eq=False)
class TimedExamples(Examples):
    """Examples with the time of each, for windows such as ``keep = "30 days"``.

    Attributes:
        times: (n,) float64 seconds since 1970, UTC.

    Raises:
        DataError: As `Examples`, and if there are not as many times.
    """

    times: NDArray[np.float64] | None = None

    def __post_init__(self) -> None:
        Examples.__post_init__(self)
        if self.times is not None and len(self.times) != len(self.inputs):
            raise DataError(f"{len(self.inputs)} inputs but {len(self.times)} times")
