"""Keeping training to the memory that a device may use."""

from __future__ import annotations

import contextlib
import math
import resource
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from device_profiles import Caps, Workload
from device_profiles.cost import payload_bytes
from device_profiles.memory import peak_mib
from device_profiles.schema import Engine
from edge_sdk.device.probe.ram import Ceiling, read_fields
from edge_sdk.errors import EngineError
from edge_sdk.program.ceiling import MemoryExceededError

__all__ = [
    "MIB",
    "T",
    "held_mib",
    "hold_to",
    "micro_batch",
    "ram_cap",
    "shrinking",
]

T = TypeVar("T")
MIB = 1024 * 1024
# Threads' stacks and the allocator's arenas take address space without being held.
HEADROOM_MIB = 64


def micro_batch(
    workload: Workload,
    density: float,
    engine: Engine,
    *,
    ram_mib: float,
    runtime_mib: float | None = None,
) -> int | None:
    """The most examples that may go through at once under a memory cap.

    Gradients of the parts add up to the batch's, so the update stays the same (batch
    norm apart: see `edge_sdk.training.accumulate`). Parts are equal in size as
    far as they can be.

    Returns:
        The workload's batch where it fits, else less; None where not even one does.
    """
    payload = payload_bytes(workload, density)

    def fits(size: int) -> bool:
        need = peak_mib(
            workload, density, payload, engine, batch=size, runtime_mib=runtime_mib
        )
        return need <= ram_mib

    whole = min(workload.batch, workload.examples)
    for parts in range(1, whole + 1):
        size = math.ceil(whole / parts)
        if fits(size):
            return size
    return None


def shrinking(run: Callable[[int], T], batch: int) -> T:
    """Runs with a batch, and with half of it each time memory does not suffice.

    Args:
        run: Takes the micro-batch size; must be repeatable from the start.
        batch: The size to try first.

    Raises:
        EngineError: Not even one example fits.
    """
    size = batch
    while True:
        try:
            return run(size)
        except (MemoryError, RuntimeError) as error:  # noqa: PERF203 - that is the loop
            if not _is_memory(error):
                raise
            if size == 1:
                raise MemoryExceededError(
                    "one example does not fit into the memory this device may use",
                    remedy="Raise caps.ram_mib, or take a lower density or model.",
                ) from error
            size = max(1, size // 2)


def _is_memory(error: BaseException) -> bool:
    return isinstance(error, MemoryError) or "can't allocate memory" in str(error)


def ram_cap(caps: Caps, found: Sequence[Ceiling]) -> int | None:
    """The hard cap in MiB: the owner's, and any limit the process is under already.

    Args:
        caps: What the owner allows.
        found: Control groups and resource limits over this process.

    Returns:
        None where neither says anything: then the board's own memory is the limit.
    """
    limits = [one.free_mib for one in found]
    if caps.ram_mib is not None:
        limits.append(caps.ram_mib)
    return min(limits, default=None)


def held_mib() -> float:
    """Anonymous memory of this process, without libraries that the kernel can drop."""
    return read_fields(Path("/proc/self/status")).get("RssAnon", 0) / 1024


@contextlib.contextmanager
def hold_to(ram_mib: int) -> Iterator[None]:
    """Caps this process's memory: an allocation fails instead of the kernel killing.

    Built on RLIMIT_DATA, which counts address space; what is reserved already and not
    held is allowed for, and some headroom for thread stacks.

    Args:
        ram_mib: Most anonymous memory.

    Raises:
        EngineError: The process holds more already.
    """
    status = read_fields(Path("/proc/self/status"))
    held, mapped = status.get("RssAnon", 0) / 1024, status.get("VmData", 0) / 1024
    if held > ram_mib:
        raise EngineError(
            f"the process holds {held:.0f} MiB, more than the cap of {ram_mib}",
            remedy="Raise caps.ram_mib: importing torch alone takes over 200 MiB.",
        )
    before = resource.getrlimit(resource.RLIMIT_DATA)
    limit = int((mapped + ram_mib - held + HEADROOM_MIB) * MIB)
    if before[1] != resource.RLIM_INFINITY:
        limit = min(limit, before[1])
    resource.setrlimit(resource.RLIMIT_DATA, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)
