"""The probe: what this very board can afford for this very task, in under a minute."""

from __future__ import annotations

import datetime as dt
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, TypeAlias

from msgspec.structs import replace

from device_profiles import DeviceProfile, Engine, Provenance, Workload
from device_profiles.calibrate import Observation, calibrate
from device_profiles.cost import payload_bytes
from device_profiles.memory import peak_mib
from device_profiles.step_time import REFERENCE_CALLS, step_terms
from edge_sdk.device.probe.board import (
    Board,
    clock_complaint,
    free_disk_mib,
    read_board,
)
from edge_sdk.device.probe.link import LinkRate, measure_link
from edge_sdk.device.probe.ram import ram_for_agent, read_fields
from edge_sdk.device.probe.rates import Rates, measure_rates
from edge_sdk.device.probe.sensors import read_thermal
from edge_sdk.errors import BrokerError, DataError
from edge_sdk.tasks.task import Examples, Task
from edge_sdk.tasks.without_torch.halves import torch_is_here

if TYPE_CHECKING:
    from edge_sdk.device.probe.steps import StepTime
    from edge_sdk.training.memory_limit import EngineName

__all__ = ["Progress", "probe"]

Progress: TypeAlias = Callable[[float, str], None]

# Shares of the probe's time; what is left over is start-up of each part.
LINK_SHARE, STEP_SHARE = 0.12, 0.70
# Without a broker to measure against: a home link that others use too.
ASSUMED_MBIT_S, ASSUMED_RTT_MS = 25.0, 10.0
MAX_RATE = 1e6
SMALLEST_BATCH = 4
NOTHING: Final[Mapping[float, str]] = MappingProxyType({})
LEAST_STEPS = 4  # two to warm up, two to time
_NO_STEPS = "not timed: this board has no torch, and its program comes with a task"


def probe(
    task: Task,
    examples: Examples,
    *,
    engine: EngineName = "auto",
    densities: Sequence[float] = (0.05, 0.2),
    broker_url: str | None = None,
    why_no_link: str = "",
    seconds: float = 45.0,
    progress: Progress = lambda _share, _what: None,
    plans: Mapping[float, str] = NOTHING,
    device: str = "cpu",
    autocast: bool = False,
    folder: Path | None = None,
    root: Path = Path("/"),
    today: dt.date | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> DeviceProfile:
    """Measures this board: memory, processor, link, disk, heat, clock.

    The task itself is trained at each density, and at a smaller batch once, with
    the agent's own loop; the profile's rates are then fitted to these step times, so
    that `cost_of` predicts this board. What cannot be measured is assumed, and said
    under ``provenance.notes``. Without torch there is no model to train before the
    coordinator has sent its program: the processor's rates stand alone then.

    Args:
        task: What the device will train.
        examples: Its examples.
        engine: Which engine will train it.
        densities: Two or three that the run may ask for.
        broker_url: The broker to measure the link to; None assumes a home link.
        why_no_link: Why there is no `broker_url`, for the notes.
        seconds: Time to spend; a model whose single step takes longer overruns it.
        progress: Told the share done, 0 to 1, and what is being measured.
        device: Where torch computes dense, as the settings have it.
        autocast: Whether in bfloat16 there.
        plans: Density -> what a step takes of memory, for the notes.
        folder: Where the agent's state will be, for the free space.
        root: Where ``proc`` and ``sys`` are.
        today: The date to write; the clock's if not given.
        clock: Monotonic seconds.

    Raises:
        EdgeError: The task cannot be trained here.
    """
    if not densities or seconds <= 0:
        raise DataError("the probe needs a density and some time")
    on = today or dt.datetime.now(tz=dt.timezone.utc).date()
    progress(0.0, "memory, processor, sensors")
    # Before anything is allocated: what the probe itself frees counts as free.
    ram, board, cool = ram_for_agent(root), read_board(root), read_thermal(root)
    progress(0.03, "link to the broker")
    link, link_note = _link(broker_url, LINK_SHARE * seconds, why_no_link)
    progress(0.15, "memory bandwidth and arithmetic")
    rates = measure_rates()
    steps: list[StepTime] = []
    if torch_is_here():
        from edge_sdk.device.probe.steps import (  # noqa: PLC0415 - imports torch
            capture_program,
            measure_steps,
        )
        from edge_sdk.training.torch_engine.placement import placement_of  # noqa: PLC0415

        where = placement_of(device, autocast=autocast)
        program = capture_program(task, examples, engine)
        steps = _steps(
            lambda density, size, share_s: measure_steps(
                task,
                examples,
                density,
                batch=size,
                engine=engine,
                seconds=share_s,
                program=program,
                placement=where,
                clock=clock,
            ),
            sorted(set(densities)),
            min(task.batch_size, len(examples)),
            STEP_SHARE * seconds,
            progress,
        )
    notes = {
        "ram_mib": ram.why,
        **link_note,
        **(_step_notes(steps) if steps else {"steps": _NO_STEPS}),
        **{f"memory plan at density {at:g}": plan for at, plan in plans.items()},
        "temperature": f"before: {cool.detail}; after: {read_thermal(root).detail}",
    }
    complaint = clock_complaint(on)
    if complaint:
        notes["clock"] = complaint
    source = Provenance(
        kind="measured", source=_source(task, rates), on=on, notes=notes
    )
    free = free_disk_mib(folder or Path.cwd())
    start = _start(
        board, rates, link, ram_mib=ram.free_mib, disk=max(1, free), source=source
    )
    progress(1.0, "done")
    if not steps:
        held = read_fields(Path("/proc/self/status")).get("RssAnon", 0) / 1024
        runtime = max(1, round(held)) if held else None
        return replace(start, engine="sparse", runtime_mib=runtime)
    from edge_sdk.tasks.cost import workload_of  # noqa: PLC0415 - imports torch

    batch = min(task.batch_size, len(examples))
    load = workload_of(
        task, examples=len(examples), epochs=1, batch=batch, given=examples
    )
    return _fitted(start, load, steps)


def _steps(
    measure: Callable[[float, int, float], StepTime],
    densities: Sequence[float],
    batch: int,
    seconds: float,
    progress: Progress,
) -> list[StepTime]:
    """The middle density at a small batch, then every density at the task's batch.

    Two batches tell what a step costs from what an example costs. The small one comes
    first: on a board where the task's batch would take too long, a smaller one is
    measured instead.
    """
    share = seconds / (len(densities) + 1)
    middle = densities[len(densities) // 2]
    small = max(min(batch, SMALLEST_BATCH), batch // 4)
    progress(0.25, f"training at density {middle:g}, batch {small}")
    steps = [measure(middle, small, share)]
    affordable = int(small * share / (LEAST_STEPS * steps[0].seconds))
    size = min(batch, max(small, affordable))
    for place, density in enumerate(densities, 1):
        done = 0.25 + 0.7 * place / (len(densities) + 1)
        progress(done, f"training at density {density:g}, batch {size}")
        steps.append(measure(density, size, share))
    return steps


def _start(
    board: Board,
    rates: Rates,
    link: LinkRate,
    *,
    ram_mib: int,
    disk: int,
    source: Provenance,
) -> DeviceProfile:
    """A profile of what is known before the task's own steps are measured."""
    return DeviceProfile(
        board=board.name,
        ram_mib=ram_mib,
        cores=board.cores,
        simd=board.simd,
        train_gflops=_bounded(rates.train_gflops),
        memory_gb_s=_bounded(rates.memory_gb_s),
        step_overhead_ms=round(rates.call_us * REFERENCE_CALLS / 1000, 4),
        pool_m_s=_bounded(rates.pool_m_s),
        uplink_mbit_s=_bounded(link.mbit_s),
        downlink_mbit_s=_bounded(link.mbit_s),
        rtt_ms=round(min(link.rtt_ms, 60_000.0), 3),
        disk_free_mib=disk,
        provenance=source,
    )


def _link(
    url: str | None, seconds: float, why_none: str
) -> tuple[LinkRate, dict[str, str]]:
    if url is None:
        return LinkRate(ASSUMED_MBIT_S, ASSUMED_RTT_MS, 0), {
            "uplink_mbit_s": "estimate: "
            + (why_none or "no broker was named to measure against")
        }
    try:
        link = measure_link(url, seconds=seconds, wait_s=max(1.0, seconds))
    except BrokerError as error:
        return LinkRate(ASSUMED_MBIT_S, ASSUMED_RTT_MS, 0), {
            "uplink_mbit_s": f"estimate: not measured, {error}"
        }
    return link, {
        "uplink_mbit_s": f"{link.chunks} chunks of 64 KiB echoed by the broker, "
        "up and down at once"
    }


def _step_notes(steps: Sequence[StepTime]) -> dict[str, str]:
    notes = {}
    for step in steps:
        peak = "" if step.peak_mib is None else f", peak {step.peak_mib:.0f} MiB"
        notes[f"step_{step.density:g}_batch_{step.batch}"] = (
            f"{1000 * step.seconds:.1f} ms, median of {step.steps}{peak}, "
            f"{step.engine} engine: {step.reason}"
        )
    return notes


def _engine(steps: Sequence[StepTime]) -> Engine:
    """The engine of most steps: the profile's rates are that one's."""
    return statistics.mode(step.engine for step in steps)


def _fitted(
    start: DeviceProfile, load: Workload, steps: Sequence[StepTime]
) -> DeviceProfile:
    start = replace(start, engine=_engine(steps))
    observed = [
        Observation(
            step_terms(load, step.density, step.engine, batch=step.batch), step.seconds
        )
        for step in steps
        if step.engine == start.engine
    ]
    fitted = calibrate(start, observed)
    runtime = _runtime_mib(load, steps)
    return replace(fitted, runtime_mib=runtime)


def _runtime_mib(load: Workload, steps: Sequence[StepTime]) -> int | None:
    """Memory (MiB) of the process beyond what the memory model accounts for."""
    beside = [
        step.peak_mib
        - peak_mib(
            load,
            step.density,
            payload_bytes(load, step.density),
            step.engine,
            batch=step.batch,
            runtime_mib=0.0,
        )
        for step in steps
        if step.peak_mib is not None
    ]
    return max(1, round(max(beside))) if beside else None


def _source(task: Task, rates: Rates) -> str:
    return (
        f"flash-edge profile, task {task.name}, {rates.measured_by}; alone: "
        f"{rates.train_gflops:.3g} GFLOP/s, "
        f"{rates.memory_gb_s:.3g} GB/s, {rates.call_us:.3g} us a call"
    )


def _bounded(rate: float) -> float:
    return float(f"{min(max(rate, 1e-3), MAX_RATE):.4g}")
