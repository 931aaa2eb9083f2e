"""A captured program beside torch: three steps on the same batch must agree."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from edge_sdk.errors import EngineError
from edge_sdk.program.capture.export import capture
from edge_sdk.program.file import pack_program
from edge_sdk.program.graph import Op, TrainingProgram
from edge_sdk.program.model import ProgramModel
from edge_sdk.sparse import Mask

__all__ = ["Compiled", "compare", "compiled"]

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
# Of the norm of three steps' update. What differs is the order of sums.
_TOLERANCE = 1e-4
_STEPS = 3
_RATE = 0.01
_DROPOUT_P = 4  # its place among attention's arguments
_CAPTURED_ON = 3  # examples; another number than what is compared on


@dataclass(frozen=True, slots=True)
class Compiled:
    """The outcome of compiling a model.

    Attributes:
        file: The program's bytes; empty where there is none.
        reason: Why there is none: the operation, its layer and its source line; else
            how far three steps are from torch's.
    """

    file: bytes
    reason: str


def compiled(
    model: nn.Module, loss: Loss, inputs: torch.Tensor, targets: torch.Tensor
) -> Compiled:
    """The program of a model and its loss, if it trains as torch does.

    Args:
        model: Left alone.
        loss: (predictions, targets) -> scalar.
        inputs: Examples as a training step gets them, four at least.
        targets: Theirs.
    """
    few = slice(0, _CAPTURED_ON)
    try:
        program = capture(model, loss, inputs[few], targets[few])
        error = compare(program, model, loss, inputs, targets)
    except EngineError as refused:
        return Compiled(b"", str(refused))
    return Compiled(
        pack_program(program), f"{_STEPS} steps are {error:.1e} from torch's"
    )


def compare(
    program: TrainingProgram,
    model: nn.Module,
    loss: Loss,
    inputs: torch.Tensor,
    targets: torch.Tensor,
) -> float:
    """Takes three steps of SGD with both; the relative error of the update.

    Where rounding decides (a ReLU whose input is nearly 0), torch's steps in float64
    say whether the program is worse than torch in float32. Without dropout on both
    sides: its masks are not torch's.

    Args:
        program: Captured from the model.
        model: Left alone.
        loss: As captured.
        inputs: A batch; more examples than it was captured on.
        targets: Theirs.

    Raises:
        EngineError: If they differ by more than 1e-4 of the update's norm, and not by
            rounding alone; names the layer that differs most.
    """
    reference = copy.deepcopy(model).train()
    _keep_all(reference)
    ours = ProgramModel(_without_dropout(program), Mask({}))
    before = _state(reference)
    ours.load({}, before)
    _train(reference, loss, inputs, targets)
    for _ in range(_STEPS):
        ours.backward(inputs.numpy(), targets.numpy())
        ours.weight_vector -= np.float32(_RATE) * ours.gradient_vector
    after, found = _state(reference), ours.dense()
    wrong = {n: _apart(found[n], after[n]) for n in after}
    moved = {n: _apart(after[n], before[n]) for n in after}
    error = float(np.linalg.norm([*wrong.values()]) / np.linalg.norm([*moved.values()]))
    if not error <= _TOLERANCE:
        exact = _in_float64(model, loss, inputs, targets)
        if exact and _distance(found, exact) <= 2 * _distance(after, exact):
            return error  # torch's own float32 is as far: a ReLU has flipped
        worst = max(wrong, key=lambda n: wrong[n] / (moved[n] + 1e-12))
        raise EngineError(
            f"layer {worst.rpartition('.')[0] or worst}: {_STEPS} steps of the program "
            f"differ from torch's, by {error:.1e} of the update in all",
            remedy="The torch engine trains this model; report the message.",
        )
    return error


def _keep_all(model: nn.Module) -> None:
    """Turns dropout within torch's own layers off, such as attention and GRU."""
    for module in model.modules():
        if isinstance(module, nn.MultiheadAttention | nn.RNNBase):
            module.dropout = 0.0
        elif isinstance(module, nn.modules.dropout._DropoutNd):  # noqa: SLF001
            module.p = 0.0


def _train(
    model: nn.Module, loss: Loss, inputs: torch.Tensor, targets: torch.Tensor
) -> None:
    for _ in range(_STEPS):
        model.zero_grad()
        with _NoDropout():
            result = loss(model(inputs), targets)
        result.backward()  # type: ignore[no-untyped-call]
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.grad is not None:
                    parameter.sub_(_RATE * parameter.grad)


def _in_float64(
    model: nn.Module, loss: Loss, inputs: torch.Tensor, targets: torch.Tensor
) -> dict[str, np.ndarray]:
    """The state after the same steps in float64; empty if the model takes no such."""
    exact = copy.deepcopy(model).train().double()
    batch = [t.double() if t.is_floating_point() else t for t in (inputs, targets)]
    try:
        _train(exact, loss, *batch)
    except (RuntimeError, TypeError):
        return {}
    return _state(exact)


def _distance(one: dict[str, np.ndarray], two: dict[str, np.ndarray]) -> float:
    return float(np.linalg.norm([np.linalg.norm(one[n] - two[n]) for n in two]))


class _NoDropout(TorchFunctionMode):
    """Calls of dropout and of attention within it keep every value."""

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """The function's result, its probability of dropping replaced by zero."""
        del types
        name, named = getattr(func, "__name__", ""), dict(kwargs or {})
        if name in {"dropout", "dropout_", "feature_dropout"}:
            named = {k: v for k, v in named.items() if k != "p"}
            return func(args[0], 0.0, *args[2:], **named)
        if name == "scaled_dot_product_attention" and len(args) > _DROPOUT_P:
            args = (*args[:_DROPOUT_P], 0.0, *args[_DROPOUT_P + 1 :])
        elif name == "scaled_dot_product_attention":
            named["dropout_p"] = 0.0
        return func(*args, **named)


def _without_dropout(program: TrainingProgram) -> TrainingProgram:
    def kept(operation: Op) -> Op:
        if operation.name == "dropout":
            return replace(operation, reals=(0.0,))
        if operation.name == "attention":
            return replace(operation, reals=(operation.reals[0], 0.0))
        return operation

    operations = tuple(map(kept, program.training.operations))
    return replace(program, training=replace(program.training, operations=operations))


def _apart(one: np.ndarray, two: np.ndarray) -> float:
    """Norm of the difference; infinities of a mask are no difference to themselves."""
    same = one == two
    return float(np.linalg.norm(np.where(same, 0, one) - np.where(same, 0, two)))


def _state(model: nn.Module) -> dict[str, np.ndarray]:
    return {n: t.detach().numpy().copy() for n, t in model.state_dict().items()}
