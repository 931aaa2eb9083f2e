"""The checkpoint of a training whose mask moves: the warm-up's, and methods like it.

Beside what a frozen task's holds it has the mask as it is now and the state of what
draws its moves, so that a reboot changes no bit of the update (`progress`).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_sdk.training.checkpoint import TaskProgress, part
from edge_sdk.training.engine import TrainingModel, TrainingSession

__all__ = ["Moving", "keep_moving", "resume_moving"]


@dataclass
class Moving:
    """All that the next step depends on.

    Attributes:
        model: Under a full mask.
        patterns: Weight name to what is kept now, bool of the layer's shape.
        session: Its momentum, and what draws augmentation.
        rng: Draws the moves.
        steps: Done.
        epoch: Of the last of them.
        loss: Sum over them.
    """

    model: TrainingModel
    patterns: dict[str, NDArray[np.bool_]]
    session: TrainingSession
    rng: np.random.Generator
    steps: int = 0
    epoch: int = 0
    loss: float = 0.0


def keep_moving(progress: TaskProgress | None, now: Moving) -> None:
    """Writes a checkpoint if it is time for one."""
    if progress is None or not progress.due():
        return
    patterns, values = now.patterns, now.model.values()
    whole = {n: w.reshape(patterns[n].shape) for n, w in values.items()}
    arrays = {
        **now.session.state(),
        **{f"s/{n}": entry for n, entry in (whole | now.model.dense()).items()},
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
        state = part(arrays, "s/")
        values = {n: state.pop(n).reshape(-1) for n in patterns}
        now.model.load(values, state)
        now.rng.bit_generator.state = _arrays(drawn)
        now.session.put_back(arrays)
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
