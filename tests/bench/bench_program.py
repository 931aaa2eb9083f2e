"""Measures a training step by program beside the best dense torch, family by family.

Run from the root of the project:
    python tests/bench/bench_program.py [--isa v3] [--families cnn1d] [--json FILE]

Speed is processor time of one thread, steps of all contestants interleaved, medians; a
step is gradients and SGD with momentum. Dense is the faster of NCHW and channels_last
with fused SGD. The limit counts kept multiply-adds at 90 GF/s and three passes over
each activation at 12 GB/s, nothing else. First and last layer stay out of the mask but
in the autoencoder; of recurrent models only the last does. A family without a program
is printed with the reason.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from edge_sdk.errors import EngineError
from edge_sdk.json_text import to_json
from edge_sdk.program.capture import capture
from edge_sdk.program.model import ProgramModel
from edge_sdk.program.optimizers import FlatSgd
from edge_sdk.sparse import Mask
from edge_sdk.zoo import (
    DenseAutoencoder,
    FemnistCnn,
    KeywordGru,
    KeywordNet,
    McMahanCnn,
    MnistNet,
    MobileNetV2Cifar,
    ResNet18Cifar,
    ResNet20,
    SmallUNet,
    VitTiny,
)

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
DENSITIES = (0.2, 0.1, 0.05)
GFLOPS, GBS = 90e9, 12e9
Step = Callable[[], Any]


@dataclass(frozen=True)
class Family:
    """A kind of model that edge teams train.

    Attributes:
        make: A fresh model.
        shape: Of one input.
        classes: 0 for an autoencoder or a U-Net, which learn their inputs.
        targets: Speed-up wanted at densities .1 and .05 with AVX2.
        first: Whether the first layer is masked, too.
    """

    make: Callable[[], nn.Module]
    shape: tuple[int, ...]
    classes: int
    targets: tuple[float, float]
    first: bool = False


class Series(nn.Module):
    """Two LSTM layers that foretell the next value of eight series."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.fc = nn.LSTM(8, 128, 2, batch_first=True), nn.Linear(128, 8)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """The class of the next step from (N, steps, 8)."""
        out: torch.Tensor = self.fc(self.lstm(inputs)[0][:, -1])
        return out


def cnn1d() -> nn.Module:
    """Six channels of motion, four convolutions."""
    layers: list[nn.Module] = []
    before = 6
    for width in (64, 128, 128, 256):
        layers += [nn.Conv1d(before, width, 5, padding=2), nn.BatchNorm1d(width)]
        layers += [nn.ReLU(), nn.MaxPool1d(2)]
        before = width
    return nn.Sequential(
        *layers, nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(before, 6)
    )


FAMILIES = {
    "resnet18": Family(ResNet18Cifar, (3, 32, 32), 10, (5.0, 7.0)),
    "femnist": Family(FemnistCnn, (1, 28, 28), 62, (4.5, 7.0)),
    "mcmahan": Family(McMahanCnn, (1, 28, 28), 10, (4.5, 7.0)),
    "mnistnet": Family(MnistNet, (1, 28, 28), 10, (0.0, 0.0)),
    "cnn1d": Family(cnn1d, (6, 128), 6, (4.5, 6.0)),
    "resnet20": Family(ResNet20, (3, 32, 32), 10, (4.0, 5.0)),
    "dscnn": Family(KeywordNet, (1, 61, 40), 10, (3.3, 3.6)),
    "mobilenet": Family(MobileNetV2Cifar, (3, 32, 32), 10, (2.3, 2.5)),
    "unet": Family(SmallUNet, (1, 32, 32), 0, (4.0, 5.5)),
    "autoencoder": Family(DenseAutoencoder, (640,), 0, (4.0, 5.0)),
    "gru": Family(KeywordGru, (1, 61, 40), 10, (4.0, 6.0), first=True),
    "lstm": Family(Series, (50, 8), 8, (4.0, 6.0), first=True),
    "vit": Family(VitTiny, (3, 32, 32), 10, (3.0, 4.0)),
}


def mask_of(family: Family, model: nn.Module, density: float) -> Mask:
    """Random patterns; the last layer's only in an autoencoder.

    Depth-wise layers stay whole: a filter of nine weights is soon empty.
    """
    rng = np.random.default_rng(0)
    depthwise = {
        f"{n}.weight"
        for n, m in model.named_modules()
        if isinstance(m, nn.Conv2d) and m.groups > 1
    }
    weights = [n for n, p in model.named_parameters() if p.dim() > 1]
    names = [n for n in weights if n not in depthwise]
    every = not family.classes and len(family.shape) == 1
    names = names[not (every or family.first) : len(names) if every else -1]
    return Mask(
        {n: rng.random(tuple(model.get_parameter(n).shape)) < density for n in names}
    )


def limit(model: ProgramModel, batch: int) -> float:
    """Seconds that arithmetic and memory traffic take at the least."""
    graph, work, values = model.program.training, 0.0, 0
    for operation in graph.operations:
        for tensor in operation.outputs:
            values += graph.tensors[tensor].size
        if operation.name in {"conv", "linear"}:
            weight = model.program.parameters[operation.parameters[0]]
            kept = model.memory.state[weight.name].size
            out = graph.tensors[operation.outputs[0]]
            work += 6.0 * kept * out.size / weight.shape[0]
        elif operation.name == "conv_transpose":
            weight = model.program.parameters[operation.parameters[0]]
            kept = model.memory.state[weight.name].size
            source = graph.tensors[operation.inputs[0]]
            work += 6.0 * kept * source.size / weight.shape[0]
        elif operation.name == "recurrent":
            weight = model.program.parameters[operation.parameters[0]]
            steps = graph.tensors[operation.outputs[0]].shape[0]
            work += 6.0 * model.memory.state[weight.name].size * steps
    return batch * (work / GFLOPS + 3 * 4 * values / GBS)


def torch_step(family: Family, x: torch.Tensor, y: torch.Tensor, *, last: bool) -> Step:
    """A step of dense torch; with `last` in channels_last."""
    model, loss = family.make(), F.cross_entropy if family.classes else F.mse_loss
    if last:
        model = model.to(memory_format=torch.channels_last)
        x = x.contiguous(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9, fused=True)

    def step() -> None:
        optimizer.zero_grad()
        loss(model(x), y).backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return step


def own_step(model: ProgramModel, x: torch.Tensor, y: torch.Tensor) -> Step:
    """A step by program."""
    optimizer = FlatSgd(model.kernels, rate=0.01, momentum=0.9)
    inputs, targets = x.numpy(), y.numpy()

    def step() -> None:
        model.backward(inputs, targets)
        optimizer.step(model.weight_vector, model.gradient_vector)

    return step


def measured(name: str, batch: int, repeats: int) -> dict[str, Any]:
    """Times of one family, or the reason why there is no program."""
    family = FAMILIES[name]
    x = torch.randn(batch, *family.shape)
    y = torch.randint(family.classes, (batch,)) if family.classes else x
    loss = F.cross_entropy if family.classes else F.mse_loss
    try:
        program = capture(family.make(), loss, x[:3], y[:3])
    except EngineError as error:
        return {"family": name, "reason": str(error)}
    layouts = (False, True) if len(family.shape) == 3 else (False,)
    steps = [torch_step(family, x, y, last=last) for last in layouts]
    models = []
    for density in DENSITIES:
        own = family.make()
        mask = mask_of(family, own, density)
        model = ProgramModel(program, mask)
        state = {n: t.numpy() for n, t in own.state_dict().items()}
        model.load(
            {n: state[n][mask[n]] for n in mask},
            {n: a for n, a in state.items() if n not in mask.layers},
        )
        models.append(model)
        steps.append(own_step(model, x, y))
    times: list[list[float]] = [[] for _ in steps]
    for turn in range(repeats + 2):
        for row, step in zip(times, steps, strict=True):
            start = time.process_time()
            step()
            if turn > 1:
                row.append(time.process_time() - start)
    median = [statistics.median(row) for row in times]
    dense, own_s = min(median[: len(layouts)]), median[len(layouts) :]
    keys = [*map(str, DENSITIES)]
    return {
        "family": name,
        "dense_ms": dense * 1e3,
        "program_ms": dict(zip(keys, (t * 1e3 for t in own_s), strict=True)),
        "speedup": dict(zip(keys, (dense / t for t in own_s), strict=True)),
        "limit": dict(
            zip(keys, (dense / limit(m, batch) for m in models), strict=True)
        ),
        "arena_mib": models[-1].arena_bytes(batch) / (1 << 20),
    }


def show(isa: str, row: dict[str, Any]) -> None:
    """One line per density, with target and arithmetic limit beside it."""
    if "reason" in row:
        print(f"\n{isa} {row['family']}: no program: {row['reason']}")
        return
    told = f"dense {row['dense_ms']:.2f} ms, arena {row['arena_mib']:.1f} MiB"
    print(f"\n{isa} {row['family']}: {told}")
    wanted = dict(zip(("0.1", "0.05"), FAMILIES[row["family"]].targets, strict=True))
    for key, speedup in row["speedup"].items():
        print(
            f"  d={key:<4} {row['program_ms'][key]:8.2f} ms {speedup:6.2f}x"
            f"   target {wanted.get(key, '-')}   limit {row['limit'][key]:.1f}x"
        )


def main() -> int:
    """Runs every family under every limit, prints tables, writes JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--isa", default="v3,sse41")
    parser.add_argument("--families", default=",".join(FAMILIES))
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        torch.set_num_threads(1)
        torch.manual_seed(0)
        print(json.dumps(measured(options.worker, options.batch, options.repeats)))
        return 0
    report: dict[str, list[dict[str, Any]]] = {}
    for isa in options.isa.split(","):
        report[isa] = []
        for name in options.families.split(","):
            environment = {**os.environ, **LIMITS[isa], "FLASH_EDGE_ISA": isa}
            environment["PYTHONPATH"] = str(Path.cwd())
            call = [sys.executable, __file__, "--worker", name]
            call += ["--batch", str(options.batch), "--repeats", str(options.repeats)]
            done = subprocess.run(
                call, env=environment, capture_output=True, text=True, check=False
            )
            if done.returncode:
                raise SystemExit(done.stderr[-2000:])
            report[isa].append(json.loads(done.stdout.splitlines()[-1]))
            show(isa, report[isa][-1])
    if options.json:
        options.json.write_text(to_json(report, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
