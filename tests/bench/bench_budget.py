"""Measures what the cost model predicts, on networks that did not calibrate it.

Run from the root of the project:
    python tests/bench/bench_budget.py [--engine masked|program] [--json FILE]

Every configuration trains in a process of its own, one thread, with the agent's loop.
Time is processor time, median of a step, and the steps run at real-time priority where
that is allowed (root), for what runs between two steps costs the next one its caches.
Memory is the most anonymous memory of the process. The rates are fitted to
`CALIBRATION` (other networks, other densities), then every network of `CHECKED` is
predicted at four densities. Figures of the day stand in docs/devices.md.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime as dt
import json
import os
import platform
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from msgspec.structs import replace

from device_profiles import DeviceProfile, Workload, load_board
from device_profiles.calibrate import Observation, calibrate
from device_profiles.memory import peak_mib
from device_profiles.step_time import REFERENCE_CALLS, step_terms
from edge_sdk.json_text import to_json

CHECKED = ("MnistNet", "McMahanCnn", "FemnistCnn", "ResNet20", "Vgg11")
DENSITIES = (0.05, 0.1, 0.2, 0.5)
BATCH = 32
CALIBRATION = (
    *(("DigitsNet", density, 32) for density in (0.08, 0.3)),
    *(("ResNet32", density, 32) for density in (0.08, 0.3)),
    *(("ResNet18Cifar", density, 32) for density in (0.08, 0.3)),
    *(("DigitsNet", 0.15, 8), ("ResNet32", 0.15, 8), ("ResNet18Cifar", 0.15, 8)),
)
WITHIN = 0.25
# Each configuration twice, minutes apart, and the faster counts: what other programs on
# the machine took is not the model's to predict.
REPEATS = 2


@dataclass(frozen=True)
class Row:
    model: str
    density: float
    batch: int
    engine: str
    seconds: float
    peak_mib: float


def task_of(name: str):  # type: ignore[no-untyped-def]
    import torch.nn.functional as F  # noqa: N812

    from edge_sdk import zoo
    from edge_sdk.tasks.task import Task

    model = getattr(zoo, name)
    gray = {"DigitsNet": 8, "MnistNet": 28, "McMahanCnn": 28, "FemnistCnn": 28}
    shape = (1, gray[name], gray[name]) if name in gray else (3, 32, 32)
    dense = frozenset({"conv1.weight", "fc2.weight"} if name == "MnistNet" else ())
    return Task(
        name=name.lower(),
        model=model,
        loss=F.cross_entropy,
        train_data=lambda _: None,  # type: ignore[arg-type, return-value]
        eval_data=lambda _: None,  # type: ignore[arg-type, return-value]
        input_shape=shape,
        dense_layers=dense,
    )


def examples_of(name: str):  # type: ignore[no-untyped-def]
    import numpy as np

    from edge_sdk.tasks.task import Examples

    rng = np.random.default_rng(0)
    inputs = rng.standard_normal((256, *task_of(name).input_shape)).astype(np.float32)
    return Examples(inputs, rng.integers(0, 10, 256))


def child(name: str, density: float, batch: int, engine: str) -> None:
    import time

    import torch

    from edge_sdk.device.probe.steps import measure_steps

    torch.set_num_threads(1)
    with contextlib.suppress(OSError):  # not allowed: a busy machine will show
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    step = measure_steps(
        task_of(name),
        examples_of(name),
        density,
        batch=batch,
        engine=engine,  # type: ignore[arg-type]
        seconds=1.5,
        clock=time.process_time,
    )
    row = Row(name, density, batch, step.engine, step.seconds, step.peak_mib or 0.0)
    print(json.dumps(asdict(row)))


def measured(name: str, density: float, batch: int, engine: str) -> Row:
    command = [sys.executable, __file__, "--child", name, str(density), str(batch)]
    done = subprocess.run(
        [*command, engine], capture_output=True, text=True, check=True, timeout=300
    )
    return Row(**json.loads(done.stdout.splitlines()[-1]))


def load_of(name: str) -> Workload:
    from edge_sdk.tasks.cost import workload_of

    task = task_of(name)
    item = 4 * task.input_shape[0] * task.input_shape[1] * task.input_shape[2]
    return workload_of(task, examples=256, epochs=1, batch=BATCH, input_bytes=item)


def memory_of(row: Row, load: Workload, runtime_mib: float | None) -> float:
    return peak_mib(
        load,
        row.density,
        0,  # no update is packed here
        row.engine,  # type: ignore[arg-type]
        batch=row.batch,
        runtime_mib=runtime_mib,
    )


def starting_profile() -> DeviceProfile:
    import torch

    from edge_sdk.device.probe.rates import measure_rates

    torch.set_num_threads(1)
    rates = measure_rates()
    return replace(
        load_board("x86_small_box"),
        train_gflops=rates.train_gflops,
        memory_gb_s=rates.memory_gb_s,
        pool_m_s=rates.pool_m_s,
        step_overhead_ms=rates.call_us * REFERENCE_CALLS / 1000,
    )


def fitted(rows: list[Row], loads: dict[str, Workload]) -> tuple[DeviceProfile, float]:
    seen = [
        Observation(
            step_terms(loads[r.model], r.density, r.engine, batch=r.batch),  # type: ignore[arg-type]
            r.seconds,
        )
        for r in rows
    ]
    beside = sorted(r.peak_mib - memory_of(r, loads[r.model], 0.0) for r in rows)
    return calibrate(starting_profile(), seen), beside[len(beside) // 2]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engine", default="masked", choices=["masked", "program"])
    parser.add_argument("--repeats", type=int, default=REPEATS)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--again", type=Path, help="Use these measurements.")
    parser.add_argument("--child", nargs=4)
    options = parser.parse_args()
    if options.child:
        name, density, batch, engine = options.child
        child(name, float(density), int(batch), engine)
        return 0
    engine = options.engine
    wanted = [*CALIBRATION, *((n, d, BATCH) for n in CHECKED for d in DENSITIES)]
    if options.again:
        every = [Row(**row) for row in json.loads(options.again.read_text())]
    else:
        runs = [
            [measured(*one, engine) for one in wanted] for _ in range(options.repeats)
        ]
        every = [
            min(same, key=lambda row: row.seconds) for same in zip(*runs, strict=True)
        ]
    base, rows = every[: len(CALIBRATION)], every[len(CALIBRATION) :]
    loads = {name: load_of(name) for name in {r.model for r in (*base, *rows)}}
    profile, runtime = fitted(base, loads)
    day = dt.datetime.now(tz=dt.timezone.utc).date()
    print(f"{platform.machine()}, {day}, {every[0].engine} engine")
    print(
        f"fitted: {profile.train_gflops} GFLOP/s, {profile.memory_gb_s} GB/s, "
        f"{profile.pool_m_s} M/s pooled, {profile.step_overhead_ms} ms per "
        f"{REFERENCE_CALLS} calls, {runtime:.0f} MiB runtime"
    )
    print("model         density  step ms  predicted  ratio   MiB  predicted  ratio")
    missed = 0
    for row in (*base, *rows):
        load = loads[row.model]
        terms = step_terms(load, row.density, row.engine, batch=row.batch)  # type: ignore[arg-type]
        seconds, mib = terms.seconds(profile), memory_of(row, load, runtime)
        ratios = seconds / row.seconds, mib / row.peak_mib
        checked = row in rows
        off = any(abs(ratio - 1) > WITHIN for ratio in ratios)
        missed += checked and off
        mark = "" if not off else "  <- off"
        print(
            f"{row.model:<13} {row.density:>6}  {1000 * row.seconds:8.2f} "
            f"{1000 * seconds:9.2f}  {ratios[0]:6.2f} {row.peak_mib:6.0f} {mib:9.0f} "
            f"{ratios[1]:6.2f}  batch {row.batch}"
            f"{'' if checked else ' (calibration)'}{mark}"
        )
    print(f"{len(rows) - missed} of {len(rows)} within {WITHIN:.0%} in both")
    if options.json:
        table = [asdict(row) for row in (*base, *rows)]
        options.json.write_text(to_json(table, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
