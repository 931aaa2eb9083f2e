"""A task's model with the parts that nobody trains frozen."""

from __future__ import annotations

from torch import nn

from edge_sdk.tasks.parts.patterns import matched
from edge_sdk.tasks.task import Task
from edge_sdk.torch_modules.weight_norm import with_kept_norms

__all__ = ["stay_in_evaluation", "task_model"]


def task_model(task: Task) -> nn.Module:
    """The task's model, with what the task freezes frozen; weight norm stays finite.

    A module of which every parameter and every statistic is frozen stays in evaluation
    mode: batch norm would take the statistics of a batch, and move its own.

    Raises:
        TaskError: If what the task freezes is nothing of the model.
    """
    model = task.model()
    if isinstance(model, nn.Module):
        with_kept_norms(model)
    if task.frozen and isinstance(model, nn.Module):
        frozen = set(matched(task, "frozen", list(model.state_dict())))
        for name, parameter in model.named_parameters(remove_duplicate=False):
            if name in frozen:
                parameter.requires_grad_(False)  # noqa: FBT003 - torch's own signature
        for path, module in model.named_modules():
            own = [f"{path}.{n}" if path else n for n in module.state_dict()]
            if own and frozen.issuperset(own):
                for part in module.modules():  # its dropout has no state, and is in it
                    stay_in_evaluation(part)
    return model


def stay_in_evaluation(module: nn.Module) -> None:
    """Puts a module in evaluation mode, where `train` leaves it."""
    module.training = False
    module.__dict__["train"] = _stays.__get__(module)


def _stays(module: nn.Module, mode: bool = True) -> nn.Module:  # noqa: FBT001, FBT002
    """`train` of a module that is frozen: it stays in evaluation mode."""
    return module
