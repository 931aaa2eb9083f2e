"""Choice of the source of a task's models: torch's where it is, else programs."""

from __future__ import annotations

from edge_sdk.tasks.task import Task
from edge_sdk.tasks.without_torch.halves import torch_is_here
from edge_sdk.training.engine import ModelSource
from edge_sdk.training.memory_limit import Activations, EngineName, StepMemory

__all__ = ["models_of"]


def models_of(
    task: Task,
    engine: EngineName,
    activations: Activations,
    memory: StepMemory,
    *,
    threads: int,
) -> ModelSource:
    """The models of a task on this machine's engines.

    Args:
        task: What to train.
        engine: Which engine the settings ask for.
        activations: How activations wait for the backward pass of a program.
        memory: Of programs.
        threads: Of programs; torch has its own.

    Raises:
        EdgeError: If the task's model cannot be trained here.
    """
    if not torch_is_here():
        from edge_sdk.training.program_engine.models import ProgramModels  # noqa: PLC0415

        return ProgramModels(task, engine, threads, memory)
    from edge_sdk.training.torch_engine.models import TorchModels  # noqa: PLC0415 - torch

    return TorchModels(task, engine, activations, memory)
