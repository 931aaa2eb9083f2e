"""Several threads of one process capture programs, as simulated agents do."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from edge_sdk.errors import EngineError
from edge_sdk.kernels.library import unavailable_reason
from edge_sdk.program.capture import capture
from edge_sdk.program.graph import TrainingProgram

pytestmark = pytest.mark.skipif(bool(unavailable_reason()), reason="no kernels")
COUNT = 6


class Branching(nn.Module):
    """A model whose control flow depends on values: its export fails midway."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x if x.sum() > 0 else -x


def captured(width: int) -> TrainingProgram:
    model: nn.Module = nn.Sequential(
        nn.Linear(4, width), nn.ReLU(), nn.Linear(width, 3)
    )
    if width % 3 == 0:
        model.append(Branching())
    return capture(model, F.cross_entropy, torch.randn(4, 4), torch.randint(0, 3, (4,)))


def test_programs_are_captured_in_several_threads_at_once() -> None:
    with ThreadPoolExecutor(COUNT) as pool:
        found = {n: pool.submit(captured, n) for n in range(8, 8 + COUNT)}
    for width, future in found.items():
        if width % 3 == 0:
            with pytest.raises(EngineError, match="depends on values"):
                future.result()
        else:
            assert future.result().parameters[0].shape == (width, 4)
