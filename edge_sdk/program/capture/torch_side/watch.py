"""`watched`: refuses work outside torch, which a program would hold for good.

torch's exporter sees tensors. A number that Python or numpy draws, and one that a layer
counts in an attribute, is a constant to it.
"""

from __future__ import annotations

import contextlib
import random  # noqa: TID251 - to tell who draws with it
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
from torch import nn

from edge_sdk.errors import EngineError

__all__ = ["watched"]

_TORCH = f"{torch.__path__[0]}/"
_NOT_OURS = (_TORCH, random.__file__, "<")
_SETS_UP = ("__reduce", "__setstate__", "__getstate__", "seed", "__init__")


def _numbers(model: nn.Module) -> dict[str, Any]:
    """Numbers that layers hold as attributes, by path."""
    return {
        f"{path}.{name}".removeprefix("."): value
        for path, module in model.named_modules()
        for name, value in vars(module).items()
        if isinstance(value, int | float) and name != "training"
    }


def _generators(model: nn.Module, loss: Any) -> dict[str, Any]:
    """States of numpy's generators that layers and functions can reach by name."""
    functions = [loss, *(type(module).forward for module in model.modules())]
    spaces: list[dict[str, Any]] = [vars(module) for module in model.modules()]
    spaces += [getattr(f, "__globals__", {}) for f in functions]
    found = {
        name: str(value.bit_generator.state)
        for space in spaces
        for name, value in space.items()
        if isinstance(value, np.random.Generator)
    }
    return {**found, "np.random": str(np.random.get_state())}  # noqa: NPY002 - only read


@contextlib.contextmanager
def watched(model: nn.Module, loss: Any) -> Iterator[None]:
    """Refuses what a model and its loss do within the block, outside torch.

    Raises:
        EngineError: If they draw numbers with Python or numpy, or a layer changes a
            number that is its attribute; names the source line or the attribute.
    """
    drawn: list[str] = []

    def seen(frame: FrameType, event: str, argument: Any) -> None:
        if event != "c_call" or drawn:
            return
        owner = getattr(argument, "__self__", None)
        name = getattr(argument, "__name__", "")
        if isinstance(owner, random.Random) and not name.startswith(_SETS_UP):
            drawn.append(_line(frame))

    before, profile = _numbers(model), sys.getprofile()
    states = _generators(model, loss)
    sys.setprofile(seen)
    try:
        yield
    finally:
        sys.setprofile(profile)
    moved = [n for n, s in _generators(model, loss).items() if states.get(n, s) != s]
    drawn += moved
    if drawn:
        raise EngineError(
            f"the model or its loss ({drawn[0]}) draws a number with Python or numpy; "
            "in a program it would be the same for ever",
            remedy="Draw it with torch: torch.rand(()), torch.randint, "
            "torch.distributions.Beta(a, b).sample(); until then the torch engine "
            "trains this model.",
        )
    after = _numbers(model)
    for name, value in before.items():
        if after.get(name, value) != value:
            raise EngineError(
                f"the model changes its attribute {name} in forward; in a program it "
                "would keep its value",
                remedy="Give what changes from step to step with the batch, or keep it "
                "out of forward; until then the torch engine trains this model.",
            )


def _line(frame: FrameType | None) -> str:
    while frame is not None:
        file = frame.f_code.co_filename
        if not file.startswith(_NOT_OURS):
            return f"{Path(file).name}:{frame.f_lineno}"
        frame = frame.f_back
    return "source unknown"
