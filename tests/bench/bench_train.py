"""Measures a training step: sparse engine, dense torch and dense-masked, side by side.

Run from the root of the project:
    python tests/bench/bench_train.py [--isa v3,sse41] [--json FILE] [--quick]

Speed is processor time of one thread, steps of all contestants interleaved, medians.
Dense is the faster of NCHW and channels_last with fused SGD. Every SIMD width is a
process of its own in which torch's kernels and ours are limited alike: v4 is AVX-512,
v3 AVX2, and sse41 (128 bits, 16 registers, no FMA) stands in for a board's NEON. First
conv and last linear stay out of the mask. Memory is the growth of the peak resident set
over an idle process, each configuration alone. Figures of the day: docs/engine.md.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from edge_sdk.json_text import to_json
from edge_sdk.kernels.library import Kernels
from edge_sdk.sparse import Mask
from edge_sdk.training.masked import masked_model
from edge_sdk.training.sparse import sparsify
from edge_sdk.training.sparse.modules import SparseConv2d, SparseLinear
from edge_sdk.zoo.resnet import ResNet18Cifar
from edge_sdk.zoo.small import FemnistCnn, McMahanCnn, MnistNet

LIMITS = {
    "v4": {},
    "v3": {
        "ONEDNN_MAX_CPU_ISA": "AVX2", "DNNL_MAX_CPU_ISA": "AVX2",
        "MKL_ENABLE_INSTRUCTIONS": "AVX2", "ATEN_CPU_CAPABILITY": "avx2",
    },
    "sse41": {
        "ONEDNN_MAX_CPU_ISA": "SSE41", "DNNL_MAX_CPU_ISA": "SSE41",
        "MKL_ENABLE_INSTRUCTIONS": "SSE4_2", "ATEN_CPU_CAPABILITY": "default",
        # On AMD, MKL ignores the limit above (a 1024 x 1024 product runs at 113 GF/s,
        # its AVX2 speed); this one it follows (50, of a 128-bit peak of 54).
        "MKL_CBWR": "COMPATIBLE",
    },
}  # fmt: skip
MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], int]] = {
    "femnist": (FemnistCnn, (1, 28, 28), 62),
    "mcmahan": (McMahanCnn, (1, 28, 28), 10),
    "resnet18": (ResNet18Cifar, (3, 32, 32), 10),
    "mnistnet": (MnistNet, (1, 28, 28), 10),
}
# The targets, and the prototype's figures on another machine (design page).
TARGETS = {
    "v3": {0.2: 2.5, 0.1: 4.0, 0.05: 6.0},
    "sse41": {0.2: 4.0, 0.1: 6.5, 0.05: 9.0},
    "state": {0.2: 0.32, 0.1: 0.17, 0.05: 0.10},
}
PROTOTYPE = {
    ("v3", "femnist"): {0.2: 2.26, 0.1: 3.50, 0.05: 4.73},
    ("v3", "mcmahan"): {0.2: 2.31, 0.1: 3.50, 0.05: 4.41},
    ("v3", "resnet18"): {0.2: 2.20, 0.1: 3.70, 0.05: 5.43},
    ("sse41", "femnist"): {0.2: 3.54, 0.1: 5.78, 0.05: 8.11},
    ("sse41", "mcmahan"): {0.2: 3.88, 0.1: 6.05, 0.05: 8.01},
    ("sse41", "resnet18"): {0.2: 3.49, 0.1: 5.77, 0.05: 8.55},
}
# Per layer, batch 32, from the same page: d = 0.2, 0.1, 0.05 with AVX2 and 128 bits.
PROTOTYPE_LAYERS = {
    "3x3 s1 64->64 @32": ((1.9, 2.8, 3.5), (4.0, 6.4, 8.4)),
    "3x3 s2 64->128 @32": ((1.9, 2.8, 3.8), (3.4, 5.3, 6.9)),
    "3x3 s1 128->128 @16": ((2.1, 4.0, 6.5), (3.6, 6.6, 11)),
    "3x3 s1 256->256 @8": ((2.1, 3.2, 7.2), (3.2, 5.8, 11)),
    "3x3 s1 512->512 @4": ((3.2, 6.0, 11), (4.4, 7.8, 15)),
    "1x1 s2 64->128 @32": ((1.3, 1.5, 1.7), (1.8, 1.7, 2.4)),
    "1x1 s1 256->256 @8": ((2.2, 3.7, 6.1), (2.8, 4.3, 6.4)),
    "5x5 s1 32->64 @14": ((2.3, 4.0, 6.7), (4.3, 7.6, 12)),
    "fc 3136->2048": ((1.9, 3.7, 6.4), (3.3, 6.1, 11)),
    "fc 512->62": ((1.5, 1.9, 2.1), (2.4, 3.0, 3.5)),
}
# Peak growth over dense at d = 0.05: the target, and the prototype's.
MEMORY = {"femnist": (0.30, 0.31), "resnet18": (0.50, 0.68), "mcmahan": (None, 0.66)}
DENSITIES = (0.2, 0.1, 0.05)
CONVS = (
    (64, 64, 32, 3, 1), (64, 128, 32, 3, 2), (128, 128, 16, 3, 1), (256, 256, 8, 3, 1),
    (512, 512, 4, 3, 1), (64, 128, 32, 1, 2), (256, 256, 8, 1, 1), (32, 64, 14, 5, 1),
)  # fmt: skip
LINEARS = ((3136, 2048), (3136, 512), (512, 62))
Step = Callable[[], None]


def mask_of(model: nn.Module, density: float) -> Mask:
    """Random patterns everywhere but in the first conv and the last linear layer."""
    rng = np.random.default_rng(0)
    kinds = (nn.Conv2d, nn.Linear)
    layers = [(n, m) for n, m in model.named_modules() if isinstance(m, kinds)]
    return Mask(
        {
            f"{n}.weight": rng.random(tuple(m.weight.shape)) < density
            for n, m in layers[1:-1]
        }
    )


def stepper(
    model: Any, name: str, batch: int, *, channels_last: bool = False
) -> Step:  # fmt: skip
    """One training step of a model on fixed random data."""
    _, shape, classes = MODELS[name]
    gen = torch.Generator().manual_seed(0)
    x = torch.randn((batch, *shape), generator=gen)
    y = torch.randint(classes, (batch,), generator=gen)
    if channels_last:
        model = model.to(memory_format=torch.channels_last)
        x = x.contiguous(memory_format=torch.channels_last)
    parameters = list(model.parameters())
    optimizer = torch.optim.SGD(parameters, 0.01, momentum=0.9, fused=True)

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()

    return step


def medians(steps: list[Step], repeats: int) -> list[float]:
    """Interleaved medians of processor time, seconds."""
    times: list[list[float]] = [[] for _ in steps]
    for step in steps:
        step()
        step()
    for _ in range(repeats):
        for row, step in zip(times, steps, strict=True):
            start = time.process_time()
            step()
            row.append(time.process_time() - start)
    return [statistics.median(row) for row in times]


def state_ratio(twin: nn.Module, dense: nn.Module) -> float:
    """Bytes of weights, gradients, momentum and index over the dense model's."""
    kinds = (SparseConv2d, SparseLinear)
    index = sum(m.structure().nbytes for m in twin.modules() if isinstance(m, kinds))
    own = 12 * sum(p.numel() for p in twin.parameters()) + index
    return own / (12 * sum(p.numel() for p in dense.parameters()))


def speed(name: str, batch: int, repeats: int) -> dict[str, Any]:
    """Dense, masked and sparse steps of one model."""
    make = MODELS[name][0]
    steps = [
        stepper(make(), name, batch),
        stepper(make(), name, batch, channels_last=True),
    ]
    model = make()
    steps.append(stepper(masked_model(model, mask_of(model, 0.1)), name, batch))
    ratios = {}
    for density in DENSITIES:
        model = make()
        twin = sparsify(model, mask_of(model, density))
        ratios[str(density)] = state_ratio(twin, model)
        steps.append(stepper(twin, name, batch))
    nchw, last, masked, *sparse = medians(steps, repeats)
    dense = min(nchw, last)
    return {
        "model": name, "batch": batch,
        "dense_ms": dense * 1e3, "masked_ms": masked * 1e3,
        "sparse_ms": {str(d): t * 1e3 for d, t in zip(DENSITIES, sparse, strict=True)},
        "speedup": {str(d): dense / t for d, t in zip(DENSITIES, sparse, strict=True)},
        "state_ratio": ratios,
    }  # fmt: skip


def layer_steps(layer: nn.Module, x: torch.Tensor) -> list[Step]:
    """Forward and backward of one layer: dense twice (layouts), then sparse."""
    steps = []
    image = x.dim() == 4
    for last in (False, True) if image else (False,):
        own, inputs = layer, x.clone()
        if last:
            own = type(layer)(
                layer.in_channels, layer.out_channels, layer.kernel_size, layer.stride,
                layer.padding, bias=False,
            ).to(memory_format=torch.channels_last)  # fmt: skip
            inputs = inputs.contiguous(memory_format=torch.channels_last)
        steps.append(_both_ways(own, inputs))
    from edge_sdk.training.sparse.layout import Batch, to_blocked

    blocked = to_blocked(x, 16)
    kind: Any = SparseConv2d if image else SparseLinear
    for density in DENSITIES:
        keep = np.random.default_rng(0).random(tuple(layer.weight.shape)) < density
        steps.append(_both_ways(kind(layer, keep, Batch(len(x))), blocked))
    return steps


def _both_ways(layer: nn.Module, x: torch.Tensor) -> Step:
    x = x.detach().requires_grad_()
    with torch.no_grad():
        g = torch.randn_like(layer(x))

    def step() -> None:
        x.grad = None
        layer.zero_grad()
        layer(x).backward(g)

    return step


def layers(batch: int, repeats: int) -> list[dict[str, Any]]:
    """Speed-up of forward and backward per kind of layer."""
    rows = []
    cases: list[tuple[str, nn.Module, torch.Tensor]] = [
        (
            f"{k}x{k} s{s} {i}->{o} @{h}",
            nn.Conv2d(i, o, k, s, k // 2, bias=False),
            torch.randn(batch, i, h, h),
        )
        for i, o, h, k, s in CONVS
    ]
    cases += [
        (f"fc {i}->{o}", nn.Linear(i, o, bias=False), torch.randn(batch, i))
        for i, o in LINEARS
    ]
    for label, layer, x in cases:
        times = medians(layer_steps(layer, x), repeats)
        count = len(times) - len(DENSITIES)
        dense = min(times[:count])
        found = dict(
            zip(map(str, DENSITIES), (dense / t for t in times[count:]), strict=True)
        )
        rows.append({"layer": label, "dense_ms": dense * 1e3, "speedup": found})
    return rows


def resident(field: str) -> float:
    """A field of /proc/self/status in MiB."""
    text = Path("/proc/self/status").read_text()
    line = next(li for li in text.splitlines() if li.startswith(field))
    return int(line.split()[1]) / 1024


def settle() -> None:
    """Gives freed memory back, so that the next reading holds only what lives."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)


def memory(name: str, batch: int, engine: str, density: float) -> dict[str, Any]:
    """Growth of the peak resident set over an idle process, MiB."""
    make, shape, _ = MODELS[name]
    warm = nn.Sequential(
        nn.Conv2d(shape[0], 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Flatten(),
        nn.Linear(8 * shape[1] * shape[2], 62),
    )  # fmt: skip
    stepper(warm, name, 2)()
    del warm
    settle()
    base = resident("VmRSS")
    model: Any = make()
    if engine == "sparse":
        model = sparsify(model, mask_of(model, density))
    elif engine == "masked":
        model = masked_model(model, mask_of(model, density))
    settle()
    Path("/proc/self/clear_refs").write_text("5")
    step = stepper(
        model, name, batch, channels_last=engine == "dense" and name == "resnet18"
    )
    for _ in range(3):
        step()
    return {"model": name, "engine": engine, "density": density,
            "mib": resident("VmHWM") - base}  # fmt: skip


def profile(name: str, batch: int, density: float) -> dict[str, Any]:
    """Where a sparse step's processor time goes, ms: kernels, optimizer, the rest."""
    model = MODELS[name][0]()
    step = stepper(sparsify(model, mask_of(model, density)), name, batch)
    for _ in range(5):
        step()
    spent: dict[str, list[float]] = {}

    def timed(label: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any, **keywords: Any) -> Any:
            start = time.process_time()
            found = call(*arguments, **keywords)
            at = label or arguments[1].removeprefix("fe_").replace("_", " ")
            spent.setdefault(at, []).append(time.process_time() - start)
            return found

        return run

    plain = Kernels.call, torch.optim.SGD.step
    Kernels.call = timed("", plain[0])  # type: ignore[method-assign]
    torch.optim.SGD.step = timed("optimizer", plain[1])  # type: ignore[method-assign]
    repeats = 60
    whole = []
    try:
        for _ in range(repeats):
            start = time.process_time()
            step()
            whole.append(time.process_time() - start)
    finally:
        Kernels.call, torch.optim.SGD.step = plain  # type: ignore[method-assign]
    total = statistics.median(whole) * 1e3
    parts = {
        label: statistics.median(times) * 1e3 * len(times) / repeats
        for label, times in spent.items()
    }
    parts["torch and Python"] = total - sum(parts.values())
    return {"model": name, "density": density, "step_ms": total, "parts_ms": parts}


def worker(arguments: list[str]) -> int:
    """What runs in a process of its own; prints one JSON value."""
    kind, *rest = arguments
    torch.set_num_threads(1)
    torch.manual_seed(0)
    if kind == "speed":
        found: Any = speed(rest[0], int(rest[1]), int(rest[2]))
    elif kind == "layers":
        found = layers(int(rest[0]), int(rest[1]))
    elif kind == "profile":
        found = profile(rest[0], int(rest[1]), float(rest[2]))
    else:
        found = memory(rest[0], int(rest[1]), rest[2], float(rest[3]))
    print(json.dumps(found))
    return 0


def child(isa: str, *arguments: object) -> Any:
    """Runs a worker under one SIMD limit."""
    environment = {**os.environ, **LIMITS[isa], "FLASH_EDGE_ISA": isa}
    environment["PYTHONPATH"] = str(Path.cwd())
    command = [sys.executable, __file__, "--worker", *map(str, arguments)]
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(done.stderr[-2000:])
    return json.loads(done.stdout.splitlines()[-1])


def show_speed(isa: str, row: dict[str, Any]) -> None:
    """One line per density with target and prototype beside it."""
    known = PROTOTYPE.get((isa, row["model"]), {})
    row["prototype"] = {str(d): v for d, v in known.items()}
    print(
        f"\n{isa} {row['model']}, batch {row['batch']}: "
        f"dense {row['dense_ms']:.1f} ms, masked {row['masked_ms']:.1f} ms"
    )
    for density in DENSITIES:
        key = str(density)
        target = TARGETS.get(isa, {}).get(density)
        older = known.get(density)
        state, wanted = row["state_ratio"][key], TARGETS["state"][density]
        print(
            f"  d={density:<4} {row['sparse_ms'][key]:8.2f} ms "
            f"{row['speedup'][key]:6.2f}x"
            f"   target {target or '-'}   prototype {older or '-'}"
            f"   state {state:.3f} (target {wanted})"
        )


def show_memory(rows: list[dict[str, Any]]) -> None:
    """Peak growth per model, and its ratio to dense."""
    print("\npeak resident growth, MiB (ratio to dense)")
    dense = {r["model"]: r["mib"] for r in rows if r["engine"] == "dense"}
    for row in rows:
        label = f"{row['model']:10} {row['engine']:7} d={row['density']:<4}"
        row["ratio"] = row["mib"] / dense[row["model"]]
        target, older = MEMORY.get(row["model"], (None, None))
        beside = ""
        if row["engine"] == "sparse" and row["density"] == 0.05:
            beside = f"   target {target or '-'}   prototype {older or '-'}"
        print(f"  {label} {row['mib']:7.1f}  {row['ratio']:.2f}{beside}")


def show_layers(isa: str, rows: list[dict[str, Any]]) -> None:
    """One line per kind of layer, with the prototype's figures in brackets."""
    print(f"\n{isa} per layer, forward + backward, speed-up over dense (prototype)")
    for row in rows:
        older = PROTOTYPE_LAYERS.get(row["layer"])
        known = older[isa == "sse41"] if older and isa in TARGETS else None
        row["prototype"] = known
        found = "  ".join(
            f"d={d}: {v:5.2f}x ({known[i] if known else '-'})"
            for i, (d, v) in enumerate(row["speedup"].items())
        )
        print(f"  {row['layer']:22} {row['dense_ms']:8.2f} ms  {found}")


def show_profile(isa: str, row: dict[str, Any]) -> None:
    """Where a step's time goes, largest part first."""
    print(f"\n{isa} {row['model']} d={row['density']}: {row['step_ms']:.2f} ms a step")
    for label, ms in sorted(row["parts_ms"].items(), key=lambda part: -part[1]):
        print(f"  {label:22} {ms:7.2f} ms")


def main() -> int:
    """Runs everything, prints tables, writes JSON."""
    if sys.argv[1:2] == ["--worker"]:
        return worker(sys.argv[2:])
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--isa", default="v3,sse41", help="comma-separated SIMD limits")
    parser.add_argument("--models", default="femnist,mcmahan,resnet18,mnistnet")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--json", type=Path, help="write the figures here too")
    parser.add_argument("--quick", action="store_true", help="speed only, few repeats")
    options = parser.parse_args()
    names = options.models.split(",")
    report: dict[str, Any] = {
        "machine": platform.processor() or platform.machine(),
        "torch": torch.__version__,
        "targets": {k: {str(d): v for d, v in t.items()} for k, t in TARGETS.items()},
        "speed": {}, "layers": {}, "profile": {}, "memory": [],
    }  # fmt: skip
    for isa in options.isa.split(","):
        report["speed"][isa] = []
        for name in names:
            repeats = 5 if options.quick or name == "resnet18" else 31
            row = child(isa, "speed", name, options.batch, repeats)
            report["speed"][isa].append(row)
            show_speed(isa, row)
        if not options.quick:
            report["layers"][isa] = child(isa, "layers", options.batch, 9)
            show_layers(isa, report["layers"][isa])
            report["profile"][isa] = child(
                isa, "profile", names[0], options.batch, DENSITIES[-1]
            )
            show_profile(isa, report["profile"][isa])
    if not options.quick:
        first = options.isa.split(",")[0]
        for name in names:
            for engine, density in [("dense", 1.0), ("masked", 0.05),
                                    ("sparse", 0.1), ("sparse", 0.05)]:  # fmt: skip
                row = child(first, "memory", name, options.batch, engine, density)
                report["memory"].append(row)
        show_memory(report["memory"])
    if options.json:
        options.json.write_text(to_json(report, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
