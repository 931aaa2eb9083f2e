"""One step of a task's model and loss on a few examples: which dtypes they take."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from edge_sdk.errors import EdgeError, TaskError, a_type
from edge_sdk.tasks.casts import Casts, float_of, input_choices, target_choices
from edge_sdk.tasks.task import Task
from edge_sdk.tasks.user_errors import told

__all__ = ["OperatorWatch", "TrialStep", "tensors_of"]


def tensors_of(outputs: Any) -> list[torch.Tensor]:
    """The tensors in a model's outputs: itself, or those of its tuple, list or dict.

    Also those of a dataclass, and of a mapping that torch does not know as a container.
    """
    found: list[torch.Tensor] = []
    for leaf in tree_leaves(outputs):
        if isinstance(leaf, torch.Tensor):
            found.append(leaf)
        elif isinstance(leaf, Mapping):
            found += tensors_of(list(leaf.values()))
        elif is_dataclass(leaf) and not isinstance(leaf, type):
            found += tensors_of([getattr(leaf, f.name, None) for f in fields(leaf)])
    return found


class OperatorWatch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Tells of each operator inside its context, forward and backward.

    Args:
        saw: (schema, arguments, arguments by name, what it has returned) -> nothing.
    """

    def __init__(self, saw: Callable[[Any, Any, Any, Any], None]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._saw = saw

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Return False: without this torch would import its compiler to find out."""
        return False

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        # Name and mutability are told nowhere else.
        self._saw(func._schema, args, kwargs, out)  # noqa: SLF001
        return out


@dataclass(frozen=True)
class TrialStep:
    """A fresh model in training mode, and what it is tried on.

    Attributes:
        task: Whose loss.
        model: Its gradients and buffers change.
        where: Which examples, for messages.
        forms: What their arrays are, in words, for the same.
    """

    task: Task
    model: nn.Module
    where: str
    forms: str = ""

    def casts(self, inputs: torch.Tensor, targets: torch.Tensor) -> Casts:
        """The first dtypes with which forward, loss and backward go through.

        Args:
            inputs: (n, *input_shape), prepared, of the dtype `prepare` gives.
            targets: (n, ...) as stored.

        Raises:
            TaskError: If none does; has the reason, the shapes and the ranges.
        """
        own = float_of(self.model)
        kind = self._first(inputs, input_choices(inputs.dtype, own), self._forward)

        def step(aims: torch.Tensor) -> None:
            self._step(inputs.to(kind), aims)

        aim = self._first(targets, target_choices(targets.dtype, own), step)
        return Casts(kind, aim)

    def _first(
        self,
        given: torch.Tensor,
        choices: tuple[torch.dtype, ...],
        attempt: Callable[[torch.Tensor], object],
    ) -> torch.dtype:
        whole = not given.is_floating_point() or bool((given == given.round()).all())
        errors = []
        for choice in choices:
            if not choice.is_floating_point and not whole:
                continue
            try:
                attempt(given.to(choice))
            except EdgeError:
                raise
            except (Exception, SystemExit) as error:  # noqa: BLE001 - a task's own
                errors.append(error)
            else:
                return choice
        # Of integers that fit neither way the last error is the floats': what a layer
        # says of the dtype before tells less, unless the layer wants indices.
        first, last = errors[0], errors[-1]
        raise self._refusal(first if _wants_indices(last) else last) from first

    def _refusal(self, error: BaseException) -> TaskError:
        return TaskError(
            f"{self.where}: one step on them raised {told(error)}"
            f"{f'; {self.forms}' if self.forms else ''}",
            remedy="Make data, model and loss of the task fit each other.",
        )

    def _forward(self, inputs: torch.Tensor) -> Any:
        outputs = self.model(inputs)
        found = tensors_of(outputs)
        if not found or len(found) != len(tree_leaves(outputs)):
            odd = [x for x in tree_leaves(outputs) if not isinstance(x, torch.Tensor)]
            given = a_type(odd[0] if odd else outputs)
            raise TaskError(
                f"task {self.task.name}: the model returns {given}",
                remedy="Return a tensor, or a tuple, list or dictionary of tensors.",
            )
        return outputs

    def _step(self, inputs: torch.Tensor, targets: torch.Tensor) -> None:
        self.model.zero_grad(set_to_none=True)
        loss: Any = self.task.loss(self._forward(inputs), targets)
        if not isinstance(loss, torch.Tensor) or loss.numel() != 1:
            what = (
                f"a tensor of shape {tuple(loss.shape)}, not one number"
                if isinstance(loss, torch.Tensor)
                else f"{a_type(loss)}, not a tensor"
            )
            raise TaskError(
                f"task {self.task.name}: the loss gives {what}",
                remedy="Return the mean over the batch, as a tensor of one number.",
            )
        if not loss.requires_grad:
            raise TaskError(
                f"task {self.task.name}: the loss has no gradient to the model's "
                "weights",
                remedy="Take argmax, round, detach(), item() and no_grad() out of the "
                "way from the weights to the loss.",
            )
        loss.backward()  # type: ignore[no-untyped-call]


def _wants_indices(error: BaseException) -> bool:
    return any(word in str(error) for word in ("indices", "index", "Long", "Int64"))
