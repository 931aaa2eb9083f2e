"""Inputs that a task's model takes, without any data: for planning and for export.

The task's own `example_inputs` come first. Else kinds of inputs are tried: floats,
token ids below the number of rows that the model looks up, booleans.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from edge_sdk.errors import EdgeError, TaskError
from edge_sdk.tasks.casts import float_of
from edge_sdk.tasks.layers import in_mode, make_model
from edge_sdk.tasks.task import Task
from edge_sdk.tasks.trial_step import OperatorWatch, tensors_of
from edge_sdk.tasks.user_errors import blamed, told

__all__ = ["LeastRows", "inputs_without_data", "made_up_batch"]

Make = Callable[[int], torch.Tensor]
_LOOKUPS = ("embedding", "index_select", "gather", "aten::index", "one_hot")
_SOME = 2  # examples that a kind is tried on


def inputs_without_data(
    name: str,
    model: nn.Module,
    shape: tuple[int, ...],
    count: int,
    *,
    stated: Make | None = None,
    prepare: Callable[[torch.Tensor], torch.Tensor] | None = None,
    seed: int = 0,
) -> torch.Tensor:
    """(count, *shape) inputs on which the model gives finite numbers.

    Args:
        name: The task's, for messages.
        model: In whichever mode; its buffers stay as they are.
        shape: One prepared input.
        count: How many.
        stated: The task's `example_inputs`.
        prepare: The task's: what it makes of token ids is what its model gets.
        seed: Of random values.

    Raises:
        TaskError: If the model takes none of the kinds tried, or the task's own have
            another shape; has the model's reason.
    """
    if stated is not None:
        with blamed(name, "making example inputs"):
            given = stated(count)
        if tuple(given.shape) != (count, *shape):
            raise TaskError(
                f"task {name}: example_inputs({count}) has shape {tuple(given.shape)}, "
                f"not {(count, *shape)}"
            )
        return given
    errors: list[BaseException] = []
    for make in _kinds(model, shape, seed, prepare):
        inputs, error = _tried(model, make, max(count, _SOME), shape)
        if error is None:
            return inputs[:count]
        errors.append(error)
    first = errors[0]
    raise TaskError(
        f"task {name}: its model takes neither floats nor small integers of shape "
        f"{(count, *shape)}: {told(first)}",
        remedy="Check the task's input_shape, or give it example_inputs: a function "
        "of how many to that many valid prepared inputs.",
    ) from first


def _tried(
    model: nn.Module, make: Make, count: int, shape: tuple[int, ...]
) -> tuple[torch.Tensor, BaseException | None]:
    """Inputs of a kind, and why the model does not take them; None if it does."""
    inputs = torch.zeros(0)
    try:
        inputs = make(count)
        _run(model, inputs)
    except EdgeError:
        raise
    except (Exception, SystemExit) as error:  # noqa: BLE001 - a task's own code
        return inputs, error
    if tuple(inputs.shape) != (count, *shape):
        return inputs, ValueError("prepared inputs have another shape")
    return inputs, None


def made_up_batch(task: Task, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs and targets that a task's model and loss take, where there are no data.

    Raises:
        TaskError: If its loss takes none of the targets tried.
    """
    model = make_model(task, 0).eval()
    inputs = inputs_without_data(
        *(task.name, model, tuple(task.input_shape), count),
        stated=task.example_inputs,
        prepare=task.prepare,
    )
    with torch.no_grad():
        outputs: Any = model(inputs)
    shape = tuple(outputs.shape) if isinstance(outputs, torch.Tensor) else (count,)
    classes = torch.zeros(shape[:1] + shape[2:], dtype=torch.int64)
    for targets in (classes, torch.zeros(shape), inputs, torch.zeros(count)):
        try:
            with torch.no_grad():
                loss: Any = task.loss(outputs, targets)
        except Exception:  # noqa: BLE001, S112 - the next form, then
            continue
        if isinstance(loss, torch.Tensor) and loss.numel() == 1:
            return inputs, targets
    raise TaskError(
        f"task {task.name}: no targets are known that its loss takes",
        remedy="Give a folder with a few examples as evaluation, beside the devices.",
    )


def _kinds(
    model: nn.Module,
    shape: tuple[int, ...],
    seed: int,
    prepare: Callable[[torch.Tensor], torch.Tensor] | None,
) -> Iterator[Make]:
    own = float_of(model)

    def normal(count: int) -> torch.Tensor:
        return torch.randn(count, *shape, generator=_noise(seed)).to(own)

    def whole(high: int, dtype: torch.dtype) -> Make:
        return lambda count: torch.randint(
            high, (count, *shape), generator=_noise(seed)
        ).to(dtype)

    yield normal
    for dtype in (torch.int64, own, torch.bool):
        rows = LeastRows()
        try:
            with OperatorWatch(rows.saw):
                _run(model, torch.zeros(_SOME, *shape, dtype=dtype))
        except Exception:  # noqa: BLE001, S112 - the next kind, then
            continue
        if rows.least and prepare is not None:
            ids = whole(rows.least, dtype)
            yield lambda count, ids=ids: prepare(ids(count))  # type: ignore[misc]
        if rows.least:
            yield whole(rows.least, dtype)
        yield whole(2, dtype)
        yield lambda count, dtype=dtype: torch.zeros(count, *shape, dtype=dtype)  # type: ignore[misc]
    yield lambda count: torch.zeros(count, *shape, dtype=own)


def _run(model: nn.Module, inputs: torch.Tensor) -> None:
    """One forward pass in evaluation mode; leaves the model and the noise alone."""
    with (
        in_mode(model, training=False),
        torch.no_grad(),
        torch.random.fork_rng(devices=[]),
    ):
        found = tensors_of(model(inputs))
    if not all(bool(torch.isfinite(t).all()) for t in found):
        raise ValueError("an output is not finite")


def _noise(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class LeastRows:
    """The least number of rows that anything is looked up in."""

    def __init__(self) -> None:
        self.least = 0

    def saw(self, schema: Any, args: Any, _kwargs: Any, _out: Any) -> None:
        """Note the table of an operator that looks something up."""
        table = args[0] if args else None
        if (
            any(word in schema.name for word in _LOOKUPS)
            and isinstance(table, torch.Tensor)
            and table.dim()
        ):
            rows = table.shape[0]
            self.least = min(self.least or rows, rows)
