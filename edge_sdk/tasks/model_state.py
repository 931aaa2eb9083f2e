"""Check that a model's state can travel: carried exactly, or refused at the start.

Values travel as float32 and whole numbers as int64 (`edge_sdk.wire.dense`). Buffers of
booleans and of integers of any width are carried; so is a float buffer whose values
float32 holds exactly. Anything else would break in the middle of a round, on every
device.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from edge_sdk.errors import TaskError, a_type

__all__ = ["check_model"]

_CONSTANT = (
    "If it is a constant, keep it out of the state: "
    "register_buffer({last!r}, ..., persistent=False)."
)
_FLOAT32 = "Make the model float32: call .float() in the task's model function."
_INT64_MAX = (1 << 63) - 1


def check_model(model: nn.Module) -> None:
    """Refuses a model that nobody can train here, or whose state cannot be sent.

    Raises:
        TaskError: Names the entry and the remedy.
    """
    if not any(p.requires_grad for p in model.parameters()):
        raise TaskError(
            f"no parameter of {type(model).__name__} trains: each has "
            "requires_grad = False",
            remedy="Leave requires_grad = True on what is to be trained.",
        )
    parameters = {n for n, _ in model.named_parameters(remove_duplicate=False)}
    state = model.state_dict()
    for name in sorted(state, key=lambda n: n not in parameters):
        entry = state[name]
        kind = "parameter" if name in parameters else "entry"
        found = _not_a_tensor(entry) or _not_carried(entry, kind)
        if found is not None:
            why, remedy = found
            raise TaskError(
                f"{kind} {name} of {type(model).__name__} cannot be sent: {why}",
                remedy=remedy.format(last=name.rpartition(".")[2]),
            )


def _not_a_tensor(entry: object) -> tuple[str, str] | None:
    """The reason why an entry has no values to carry, and the remedy; or None."""
    if not isinstance(entry, torch.Tensor):
        return (
            f"it is {a_type(entry)}, not a tensor",
            "Give the module no get_extra_state; keep what is needed in a buffer.",
        )
    if nn.parameter.is_lazy(entry) or entry.is_meta:
        return (
            "it has no values before the first batch",
            "Give the layer its input size instead of a lazy module.",
        )
    if entry.is_quantized or entry.layout is not torch.strided:
        return "it is sparse or quantized, not a plain tensor", _CONSTANT
    return None


def _not_carried(entry: Any, kind: str) -> tuple[str, str] | None:
    """The reason why an entry's values lose precision, and the remedy; or None."""
    dtype = str(entry.dtype).removeprefix("torch.")
    if not entry.is_floating_point():
        return _of_whole_numbers(entry, dtype)
    if kind == "parameter" and entry.dtype != torch.float32:
        return f"it is {dtype}, and parameters are float32", _FLOAT32
    if not torch.isfinite(entry.float()).all():
        return "it holds a value that is not finite as float32", _CONSTANT
    known = dtype in ("float32", "float64", "float16")
    if not known or not torch.equal(entry.float().to(entry.dtype), entry):
        return f"it is {dtype}, which is not carried exactly", (
            f"{_CONSTANT} Else make it float32."
        )
    return None


def _of_whole_numbers(entry: torch.Tensor, dtype: str) -> tuple[str, str] | None:
    if entry.is_complex():
        return f"it is {dtype}", f"{_CONSTANT} Else use torch.view_as_real."
    known = {f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)}
    if dtype not in {"bool", *known}:
        return f"it is {dtype}", _CONSTANT
    if dtype == "uint64" and entry.numel() and int(entry.numpy().max()) > _INT64_MAX:
        return "it holds an integer above 2**63 - 1", _CONSTANT
    return None
