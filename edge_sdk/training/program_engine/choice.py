"""Choice of the source of a task's models: torch's where it is, else programs."""

from __future__ import annotations

import sys
from pathlib import Path

from edge_sdk.errors import EngineError
from edge_sdk.kernels.library import available
from edge_sdk.tasks.task import Task
from edge_sdk.tasks.without_torch.halves import ArrayFunction, torch_is_here
from edge_sdk.training.engine import ModelSource
from edge_sdk.training.memory_limit import Activations, EngineName, StepMemory
from edge_sdk.training.program_engine.kept import kept_program

__all__ = ["models_of", "why_torch_now"]


def why_torch_now(task: Task, engine: EngineName, device: str, state: Path) -> str:
    """The reason why an agent imports torch at its start; empty where it can wait.

    It can where orders have brought a program, and examples are read, prepared and
    augmented in numpy. Else the import would take its time out of the first task's.

    Args:
        task: As its module made it; one that imports torch has done so by now.
        engine: Which engine the settings ask for.
        device: Where torch is to compute; it alone knows what GPUs there are.
        state: The device's state folder, which keeps the last program.
    """
    if engine == "masked" or device != "cpu":
        asked = f'device = "{device}"' if device != "cpu" else f'engine = "{engine}"'
        return f"{asked} in the settings"
    if "torch" in sys.modules:
        return f"the module of task {task.name} imports it"
    for what in ("prepare", "augment"):
        function = getattr(task, what)
        if what == "prepare" and task.prepares_nothing:
            continue
        if not isinstance(function, ArrayFunction | None):
            return f"{what} of task {task.name} is written for it"
    if not kept_program(state):
        return "no order has brought a training program yet"
    return "" if available() else "no training program can run here"


def models_of(
    task: Task,
    engine: EngineName,
    activations: Activations,
    memory: StepMemory,
    threads: int,
    device: str = "cpu",
    autocast: bool = False,  # noqa: FBT001, FBT002 - as the settings have it
    *,
    with_torch: bool = True,
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
        with_torch: Whether torch may be imported where it is.

    Raises:
        EdgeError: If the task's model cannot be trained here.
    """
    if not with_torch or not torch_is_here():
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
