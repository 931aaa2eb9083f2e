"""The trainer of a device's settings, and the memory that it may take."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable
from typing import Literal

from device_profiles import DeviceProfile
from edge_sdk.datasets.growing.device_data import DeviceData
from edge_sdk.device.limits.memory import MIB, held_mib, micro_batch, ram_cap
from edge_sdk.device.probe.ram import ceilings
from edge_sdk.program.ceiling import MemoryCeiling
from edge_sdk.settings import DeviceSettings
from edge_sdk.tasks.task import Examples, Task
from edge_sdk.tasks.without_torch.halves import torch_is_here
from edge_sdk.training.checkpoint import Progress
from edge_sdk.training.holdout.divided import DividedExamples
from edge_sdk.training.memory_limit import MicroBatch, ReadCeiling
from edge_sdk.training.program_engine.late_torch import LateTorchRunner
from edge_sdk.training.runner import TaskRunner

__all__ = ["micro_batch_of", "runner_of"]

log = logging.getLogger(__name__)
# Predicted memory was within 15 % of what was measured on most networks; a ceiling has
# to hold all the same. See docs/devices.md.
_FORESIGHT = 0.85


def runner_of(
    settings: DeviceSettings,
    profile: DeviceProfile,
    task: Task,
    data: DeviceData,
    clock: Callable[[], float],
    *,
    threads: int,
    lent: int,
    late: bool,
) -> TaskRunner | LateTorchRunner:
    """The trainer; where torch can wait, one that imports it when an order needs it.

    Args:
        settings: The device's.
        profile: The board's, with its owner's caps.
        task: What to train.
        data: The device's examples.
        clock: Monotonic seconds in which pauses of the owner's do not pass.
        threads: As the settings bound them; 0 leaves torch its own number.
        lent: Threads of a program where the settings say nothing.
        late: Whether torch waits, see `why_torch_now`.
    """
    progress = Progress(settings.state)

    def made(micro_batch: int | MicroBatch, *, with_torch: bool) -> TaskRunner:
        runner = TaskRunner(
            task,
            data.examples,
            settings.engine,
            micro_batch=micro_batch,
            ghost_norm=settings.ghost_norm,
            activations=settings.activations,
            ceiling=_ceiling_of(profile),
            clock=clock,
            progress=progress,
            threads=threads or lent,
            device=settings.device,
            autocast=settings.autocast,
            with_torch=with_torch,
        )
        runner.tester.examples = DividedExamples(
            data.examples, data.held, settings.state
        )
        return runner

    def with_torch() -> TaskRunner:
        if threads and torch_is_here():
            import torch  # noqa: PLC0415 - an extra

            torch.set_num_threads(threads)
        if late:
            data.fit()
        size = micro_batch_of(settings, profile, task, data.examples)
        return made(size, with_torch=True)

    if not late:
        return with_torch()
    log.info("torch is not imported until an order needs it")
    whole = 0 if settings.micro_batch == "auto" else settings.micro_batch
    own = made(whole, with_torch=False)
    return LateTorchRunner(own, with_torch, progress, races=settings.engine == "auto")


def micro_batch_of(
    settings: DeviceSettings, profile: DeviceProfile, task: Task, examples: Examples
) -> int | MicroBatch:
    """The micro-batch of the settings, or one that fits the owner's memory limit.

    ``auto`` splits only where the update stays the same: a model with batch norm trains
    whole batches unless the settings accept `ghost_norm`, and one log line says so. The
    coordinator has chosen a density whose whole batch should fit.
    """
    ceiling = profile.caps.ram_mib
    if settings.micro_batch != "auto":
        return settings.micro_batch
    if ceiling is None or not torch_is_here():  # a program is planned by itself
        return 0
    from edge_sdk.tasks.cost import workload_of  # noqa: PLC0415 - imports torch
    from edge_sdk.training.accumulate import coupling_layer  # noqa: PLC0415 - torch

    layer = None if settings.ghost_norm else coupling_layer(task.model())
    if layer is not None:
        log.info(
            "batches stay whole under caps.ram_mib: batch norm (layer %s) sees all of "
            "them; ghost_norm = true allows to split",
            layer,
        )
        return 0
    some = examples if len(examples) else None  # a source may be away yet
    load = workload_of(
        task,
        examples=max(1, len(examples)),
        epochs=1,
        batch=task.batch_size,
        input_bytes=None if some is None else some.inputs[0].nbytes,
        given=some,
    )

    def fits(
        density: float, engine: Literal["sparse", "masked"], batch: int
    ) -> int | None:
        return micro_batch(
            dataclasses.replace(load, batch=batch),
            density,
            engine,
            ram_mib=_FORESIGHT * ceiling,
            runtime_mib=profile.runtime_mib,
        )

    return fits


def _ceiling_of(profile: DeviceProfile) -> ReadCeiling:
    """The bound that the process is held to, and what it holds when asked."""
    cap = ram_cap(profile.caps, ceilings())

    def ceiling() -> MemoryCeiling | None:
        if cap is None:
            return None
        return MemoryCeiling(cap * MIB, int(held_mib() * MIB))

    return ceiling
