"""Models on programs that were captured of them, for tests of the training loop."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from edge_sdk.sparse import Mask
from edge_sdk.training.torch_engine.program import (
    Loss,
    ProgramOnTorch,
    captured,
    program_model,
)

__all__ = ["on_program"]


def on_program(
    model: nn.Module, mask: Mask, inputs: object, targets: object, *,
    loss: Loss = F.cross_entropy,
) -> ProgramOnTorch:  # fmt: skip
    """The model under a mask, captured on the first of these examples."""
    batch = tuple(torch.from_numpy(np.asarray(a)[:8]) for a in (inputs, targets))
    file = captured(model, loss, batch)  # type: ignore[arg-type]
    return program_model(model, mask, file, batch[0], reason="a test asks for it")
