"""Rows of several inputs that outputs are compared on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from edge_sdk.infer.input_parts import InputPart

__all__ = ["made_up"]


def made_up(
    parts: Sequence[InputPart], given: NDArray[Any] | None, seed: int, count: int
) -> torch.Tensor:
    """Rows (count, values), the same each time.

    Args:
        parts: The model's inputs.
        given: Rows that there are, which are repeated; None for numbers of each input's
            kind.
        seed: Of these.
        count: How many.
    """
    if given is not None:
        return torch.from_numpy(given[np.resize(np.arange(len(given)), count)])
    noise = torch.Generator().manual_seed(seed)
    made = []
    for part in parts:
        size = count, part.size
        if part.dtype == "float32":
            made.append(torch.randn(size, generator=noise))
        else:
            below = 2 if part.dtype == "bool" else part.below
            made.append(torch.randint(below, size, generator=noise).float())
    return torch.cat(made, dim=1)
