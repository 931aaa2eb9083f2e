"""What a device needs: the probe, a task under 384 MB, the install, the assignment.

Run from the root of the project:
    python tests/bench/bench_device.py [--no-install]

Each measurement is a process of its own. Memory is what the kernel counts as held:
anonymous pages, without libraries that it can drop. The task is tried without a limit,
under the agent's own cap, and in a control group that the kernel kills in. The installs
are wheels for Python 3.11, unpacked by uv (1 GB is downloaded the first time;
--no-install leaves them out): ours of dist/ where `make wheels` has put it, else only
what it needs. Sizes are sums over files. Figures of the day stand in docs/devices.md.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

CAP_MB = 384  # between the peaks of 207 and 500 MiB, far from both
BATCH, MOMENTUM = 32, 0.9
PROJECT = Path(__file__).resolve().parents[2]
sys.path.append(str(PROJECT / "tests"))

from memory_group import inside, memory_group  # noqa: E402 - a neighbour, not a package

# -- in a process of its own -----------------------------------------------------------


def femnist_order(density: float):  # type: ignore[no-untyped-def]
    """One task of FEMNIST's CNN: (task, examples, order, base)."""
    import numpy as np
    import torch.nn.functional as F  # noqa: N812

    from edge_sdk.sparse import draw, exact_counts, uniform
    from edge_sdk.tasks.layers import initial_state, layers_of
    from edge_sdk.tasks.task import Examples, Task
    from edge_sdk.wire.blob import manifest_of
    from edge_sdk.wire.messages import MaskRecipe, TaskOrder, Training
    from edge_sdk.wire.rules import Frozen
    from edge_sdk.wire.values import Values, pack_values
    from edge_sdk.zoo import FemnistCnn

    rng = np.random.default_rng(0)
    own = Examples(
        rng.standard_normal((256, 1, 28, 28)).astype(np.float32),
        rng.integers(0, 62, 256),
    )
    task = Task(
        name="femnist",
        model=FemnistCnn,
        loss=F.cross_entropy,
        train_data=lambda _: own,
        eval_data=lambda _: own,
        input_shape=(1, 28, 28),
    )
    layers = layers_of(task.model(), task.dense_layers)
    counts = exact_counts(uniform(layers), layers, density)
    mask = draw(layers, counts, 1)
    state = initial_state(task, 1)
    values = {name: state.pop(name)[mask[name]] for name in mask}
    base = pack_values(Values(mask.digest, values, state), mask)
    order = TaskOrder(
        id="1-a",
        round_no=1,
        density=density,
        base=manifest_of(base),
        mask=MaskRecipe(1, counts, mask.digest),
        rule=Frozen(),
        training=Training(
            epochs=1, batch_size=BATCH, learning_rate=0.01, momentum=MOMENTUM
        ),
        ttl_ms=60_000,
        shard=0,
        codec="fp32",
    )
    return task, own, order, base


def sent_program() -> bytes:
    """FEMNIST's program, captured elsewhere as the coordinator does."""
    place = Path(tempfile.gettempdir()) / "flash-edge-bench-femnist.program"
    if not place.exists():
        raise SystemExit(f"{place} is missing: run --part program first")
    return place.read_bytes()


def capture_program() -> dict[str, object]:
    """Writes what `sent_program` reads."""
    from edge_sdk.tasks.batch import tensors
    from edge_sdk.training.torch_engine.program import captured

    task, own, _, _ = femnist_order(0.05)
    place = Path(tempfile.gettempdir()) / "flash-edge-bench-femnist.program"
    place.write_bytes(captured(task.model(), task.loss, tensors(task, own, slice(8))))
    return {"program": str(place)}


def trial(density: float, engine: str, cap_mib: int) -> dict[str, object]:
    """Carries out one order under a hard cap, as the agent does."""
    import contextlib
    import gc

    import torch

    from edge_sdk.device.limits.enforcement import MemoryFallbackRunner
    from edge_sdk.device.limits.memory import hold_to
    from edge_sdk.device.probe.steps import peak_rss_mib, release, reset_peak
    from edge_sdk.errors import EngineError
    from edge_sdk.training.runner import TaskRunner

    torch.set_num_threads(1)
    task, own, order, base = femnist_order(density)
    program = sent_program() if engine == "program" else b""
    runner = TaskRunner(task, own, engine)  # type: ignore[arg-type]
    gc.collect()
    release()
    reset_peak()
    held = hold_to(cap_mib) if cap_mib else contextlib.nullcontext()
    try:
        with held:
            packed = MemoryFallbackRunner(runner).run(
                order, base, lambda: False, program=program
            )
    except EngineError as error:
        return {"done": False, "why": str(error), "peak_mib": peak_rss_mib()}
    return {
        "done": True,
        "steps": packed.offer.metrics["steps"],
        "at_once": runner.allowance.most or BATCH,
        "peak_mib": peak_rss_mib(),
    }


def probed(whole: bool) -> dict[str, object]:
    """The whole probe, or only the training that it measures."""
    import torch

    from edge_sdk.device.probe.run import probe
    from edge_sdk.device.probe.steps import measure_steps, peak_rss_mib, reset_peak

    torch.set_num_threads(1)
    task, own, _, _ = femnist_order(0.05)
    began = time.monotonic()
    reset_peak()
    if whole:
        probe(task, own, engine="program", densities=(0.05, 0.2), seconds=45.0)
    else:
        for density in (0.05, 0.2):
            measure_steps(
                task, own, density, batch=task.batch_size, engine="program", seconds=2.0
            )
    return {"seconds": time.monotonic() - began, "peak_mib": peak_rss_mib()}


def assignment() -> dict[str, object]:
    """Ten thousand devices of every shipped board, each with its own measured rates."""
    from msgspec.structs import replace

    from coordinator.densities import assign
    from device_profiles import boards, load_board
    from edge_sdk.tasks.cost import workload_of
    from edge_sdk.tasks.task import load_task

    task = load_task("mnist")
    load = workload_of(task, examples=1000, epochs=1, batch=task.batch_size)
    known = [load_board(name) for name in boards()]
    found = {}
    for kind in ("the catalogue's", "all different"):
        fleet = {f"d-{n}": known[n % len(known)] for n in range(10_000)}
        if kind == "all different":
            fleet = {
                name: replace(one, rtt_ms=one.rtt_ms + n / 1000)
                for n, (name, one) in enumerate(fleet.items())
            }
        began = time.process_time()
        assign(fleet, load, (0.05, 0.1, 0.2))
        found[kind] = time.process_time() - began
    return found


PARTS = {
    "trial": lambda a: trial(float(a[0]), a[1], int(a[2])),
    "probe": lambda a: probed(a[0] == "whole"),
    "assign": lambda _: assignment(),
    "program": lambda _: capture_program(),
}


def in_process(*arguments: str, group: Path | None = None) -> dict[str, float]:
    command = [sys.executable, __file__, "--part", *arguments]
    done = subprocess.run(
        command if group is None else inside(group, command),
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=550,
        check=False,
    )
    if done.returncode:
        return {"died": done.returncode}  # -9 or 137: the kernel killed it
    return json.loads(done.stdout.splitlines()[-1])  # type: ignore[no-any-return]


# -- the report ------------------------------------------------------------------------


def installed_mb(machine: str, *extra: str) -> dict[str, float]:
    """What a device's install takes on disk, in 1e6 bytes: all, then the largest."""
    ours = sorted(map(str, (PROJECT / "dist").glob(f"*_{machine}.whl")))
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(
            [
                *("uv", "pip", "install", "--quiet", "--only-binary", ":all:"),
                *("--target", folder, "--python-version", "3.11"),
                *("--python-platform", f"{machine}-manylinux_2_28"),
                *(ours or ("-r", "pyproject.toml")),
                *extra,
            ],
            cwd=PROJECT,
            check=True,
            timeout=550,
        )
        sizes: dict[str, float] = {}
        for file in (f for f in Path(folder).rglob("*") if f.is_file()):
            top = file.relative_to(folder).parts[0].partition(".")[0]
            sizes[top] = sizes.get(top, 0.0) + file.stat().st_size / 1e6
    largest = sorted(sizes.items(), key=lambda item: -item[1])[:5]
    own = ("edge_sdk", "coordinator", "export", "device_profiles")
    told = {"all": sum(sizes.values()), "ours": sum(sizes.get(n, 0.0) for n in own)}
    return {name: round(size, 1) for name, size in (*told.items(), *largest)}


def show_trials() -> None:
    cap = CAP_MB * 10**6 >> 20
    print(f"FemnistCnn, a task of batch {BATCH}, momentum {MOMENTUM}:")
    in_process("program")
    with memory_group(CAP_MB * 10**6) as group:
        for density, engine in (("0.05", "program"), ("1.0", "masked")):
            print(
                f"  d={density}, no limit:", in_process("trial", density, engine, "0")
            )
            capped = in_process("trial", density, engine, str(cap))
            print(f"    our own cap of {cap} MiB:", capped)
            if group is None:
                print("    no control group can be made here (root, cgroup v1 or v2)")
                continue
            alone = in_process("trial", density, engine, "0", group=group)
            print(f"    a control group of {CAP_MB} MB, no cap of ours:", alone)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--no-install", action="store_true")
    parser.add_argument("--part", nargs="+")
    options = parser.parse_args()
    if options.part:
        print(json.dumps(PARTS[options.part[0]](options.part[1:])))
        return 0
    found = in_process("assign")
    print("assignment of 10 000 devices, processor seconds:", found)
    whole, training = in_process("probe", "whole"), in_process("probe", "training")
    print(
        f"probe of FemnistCnn: {whole['seconds']:.0f} s, peak {whole['peak_mib']:.0f}"
    )
    print(f"  MiB; the training that it measures: {training['peak_mib']:.0f} MiB")
    show_trials()
    if not options.no_install:
        print("MB installed, without the bytecode that pip compiles:")
        for machine in ("aarch64", "x86_64"):
            print(f"  {machine}, without torch:", installed_mb(machine))
            print("    numpy<2.3:", installed_mb(machine, "numpy<2.3"))
        print("  aarch64, with torch:", installed_mb("aarch64", "torch<2.10"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
