"""Choice of the source of a task's models: torch's where it is, else programs."""

from __future__ import annotations

from edge_sdk.errors import EngineError
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
    threads: int,
    device: str = "cpu",
    autocast: bool = False,  # noqa: FBT001, FBT002 - as the settings have it
) -> ModelSource:
    """The models of a task on this machine's engines.

    Args:
        task: What to train.
        engine: Which engine the settings ask for.
        activations: How activations wait for the backward pass of a program.
        memory: Of programs.
        threads: Of programs; torch has its own.
        device: Where torch computes: ``cpu``, ``cuda``, or ``auto``.
        autocast: Whether it computes matrix products in bfloat16 there.

    Raises:
        EdgeError: If the task's model cannot be trained here.
    """
    if not torch_is_here():
        if device.startswith("cuda"):
            raise EngineError(
                f'device = "{device}" computes by torch, which is not installed here',
                remedy='Set device = "cpu"; or install torch: on a Jetson NVIDIA\'s '
                "own wheel of its JetPack, else pip install 'flash-edge[device]'.",
            )
        from edge_sdk.training.program_engine.models import ProgramModels  # noqa: PLC0415

        return ProgramModels(task, engine, threads, memory)
    from edge_sdk.training.torch_engine.models import TorchModels  # noqa: PLC0415 - torch
    from edge_sdk.training.torch_engine.placement import placement_of  # noqa: PLC0415

    placement = placement_of(device, autocast=autocast)
    return TorchModels(task, engine, activations, memory, placement)
