"""The checkpoint of a training whose mask moves: the warm-up's, and methods like it.

Beside what a frozen task's holds it has the mask as it is now and the state of what
draws its moves, so that a reboot changes no bit of the update (`progress`).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from edge_sdk.training.checkpoint import (
    TaskProgress,
    part,
    put_back_random,
    random_arrays,
)
from edge_sdk.training.sgd import Sgd

__all__ = ["Moving", "keep_moving", "resume_moving"]


@dataclass
class Moving:
    """All that the next step depends on.

    Attributes:
        model: With dense weights.
        patterns: Weight name to what is kept now, bool of the layer's shape.
        optimizer: Its momentum.
        rng: Draws the moves.
        noise: Draws augmentation.
        steps: Done.
        epoch: Of the last of them.
        loss: Sum over them.
    """

    model: nn.Module
    patterns: dict[str, NDArray[np.bool_]]
    optimizer: Sgd
    rng: np.random.Generator
    noise: torch.Generator
    steps: int = 0
    epoch: int = 0
    loss: float = 0.0


def keep_moving(progress: TaskProgress | None, now: Moving) -> None:
    """Writes a checkpoint if it is time for one."""
    if progress is None or not progress.due():
        return
    state = now.model.state_dict()
    arrays = {
        **random_arrays(now.optimizer, now.noise),
        **{f"s/{name}": tensor.detach().numpy() for name, tensor in state.items()},
        **{f"p/{name}": pattern for name, pattern in now.patterns.items()},
    }
    told = {
        "steps": str(now.steps),
        "epoch": str(now.epoch),
        "loss": now.loss.hex(),
        "rng": json.dumps(now.rng.bit_generator.state, default=_plain),
    }
    progress.write(told, arrays)


def resume_moving(progress: TaskProgress | None, now: Moving) -> None:
    """Puts back what a life before this one has kept, if it has."""
    if progress is None:
        return

    def put_back(told: dict[str, str], arrays: dict[str, NDArray[Any]]) -> bool:
        patterns = part(arrays, "p/")
        steps, epoch = int(told["steps"]), int(told["epoch"])
        loss, drawn = float.fromhex(told["loss"]), json.loads(told["rng"])
        if set(patterns) != set(now.patterns):
            raise ValueError("its mask is for other layers")
        state = {n: torch.from_numpy(a) for n, a in part(arrays, "s/").items()}
        now.model.load_state_dict(state)
        now.rng.bit_generator.state = _arrays(drawn)
        put_back_random(arrays, now.optimizer, now.noise)
        now.patterns = {n: p.astype(np.bool_) for n, p in patterns.items()}
        now.steps, now.epoch, now.loss = steps, epoch, loss
        return True

    progress.read(put_back)


def _plain(value: Any) -> Any:
    return value.tolist()


def _arrays(state: dict[str, Any]) -> dict[str, Any]:
    """A bit generator's state as numpy takes it: lists were uint64 arrays."""
    return {
        key: _arrays(value)
        if isinstance(value, dict)
        else np.array(value, np.uint64)
        if isinstance(value, list)
        else value
        for key, value in state.items()
    }
