"""Fuzzes the runtime of training programs: C++ under sanitizers.

Plans of real models are mutated word by word, opened and run; parameters and batches
lie in memory of exactly the size that was told. `make fuzz-program` takes a million
mutants of each model's plan.

    PYTHONPATH=tests python tests/fuzz/program_fuzzer.py --mutants 1000000 --seed 1
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from beside_torch import Case
from compiled import compiled
from torch import nn

from edge_sdk.kernels.build import SOURCES, find_compiler, this_machine
from edge_sdk.kernels.library import kernels
from edge_sdk.program.capture import capture
from edge_sdk.program.graph import TrainingProgram
from edge_sdk.program.operations import operands, rule_of
from edge_sdk.program.passes import optimized
from edge_sdk.program.plan import plan
from edge_sdk.program.runtime import declared
from edge_sdk.program.schedule import schedule
from edge_sdk.program.words import words

HERE = Path(__file__).resolve().parent / "program"
FLAGS = (
    *("-std=gnu++17", "-O1", "-g1", "-DFE_VECTOR_BYTES=16", f"-I{SOURCES}"),
    *("-fsanitize=address,undefined", "-fno-sanitize-recover=all"),
    *(["-msse4.1"] if this_machine() == "x86_64" else []),
)
SAMPLES = 5


def tool() -> Path:
    """The fuzzer as one executable, compiled once per version of its sources."""
    compiler, kept = _compiler(), _kernels()

    def build(folder: Path) -> None:
        objects = [*map(str, sorted(kept.glob("*.o"))), str(HERE / "fuzz.cpp")]
        _run([compiler, *FLAGS, *objects, "-o", str(folder / "fuzz")])

    made = compiled(
        *("program-fuzzer", build), compiler=compiler, flags=FLAGS, sources=[kept, HERE]
    )
    return made / "fuzz"


def _kernels() -> Path:
    """Objects of all kernels under the sanitizers."""
    compiler = _compiler()

    def build(folder: Path) -> None:
        def one(source: Path) -> None:
            _run([compiler, *FLAGS, "-c", str(source), "-o",
                  str(folder / f"{source.stem}.o")])  # fmt: skip

        with ThreadPoolExecutor(2) as pool:
            list(pool.map(one, sorted(SOURCES.glob("*.cpp"))))

    return compiled(
        *("program-checked-kernels", build),
        compiler=compiler,
        flags=FLAGS,
        sources=[SOURCES],
    )


def _compiler() -> str:
    found = find_compiler(this_machine())
    assert found is not None
    return found


def _run(call: list[str]) -> None:
    done = subprocess.run(call, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(call)} failed:\n{done.stderr[-3000:]}")


# --------------------------------------------------------------------------- seeds


def cases() -> dict[str, Case]:
    """Small models that together have every operation."""
    torch.manual_seed(0)
    labels = torch.randint(0, 2, (SAMPLES,))
    image = nn.Sequential(
        *(nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(4, 4, 3, 2, groups=2), nn.GroupNorm(2, 4)),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)),
    )
    tokens = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Flatten(), nn.Linear(18, 4))
    thin = nn.Sequential(
        *(nn.Conv2d(2, 4, 1), nn.BatchNorm2d(4), nn.ReLU6()),
        *(nn.Conv2d(4, 4, 3, padding=1, groups=4), nn.BatchNorm2d(4), nn.ReLU6()),
        *(nn.Upsample(scale_factor=2), nn.ConvTranspose2d(4, 2, 2, 2), nn.AvgPool2d(2)),
        *(nn.Flatten(), nn.Linear(128, 3)),
    )
    return {
        "image": Case(image, torch.randn(SAMPLES, 2, 8, 8), labels),
        "thin": Case(thin, torch.randn(SAMPLES, 2, 4, 4), labels),
        "recurrent": Case(_Recurrent(), torch.randint(0, 2, (SAMPLES, 4)), labels),
        "states": Case(_States(), torch.randn(SAMPLES, 3, 4), labels),
        "masked": Case(_Masked(), torch.randint(0, 4, (SAMPLES, 3)), labels, _terms),
        "video": Case(_video(), torch.randn(SAMPLES, 1, 3, 4, 4), labels, _weighted),
        "block": Case(_Block(), torch.randn(SAMPLES, 3, 8), labels),
        "heads": Case(
            _Heads(), torch.randn(SAMPLES, 2, 4), torch.rand(SAMPLES, 3), _two
        ),
        "views": Case(
            nn.Linear(4, 6), torch.randn(SAMPLES, 4), torch.randn(SAMPLES, 6), _views
        ),
        "tokens": Case(
            tokens, torch.randn(SAMPLES, 3, 4), torch.randn(SAMPLES, 4), F.mse_loss
        ),
    }


class _Recurrent(nn.Module):
    """Tokens through a GRU and an LSTM."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(5, 4)
        self.gru = nn.GRU(4, 4, batch_first=True)
        self.lstm, self.head = nn.LSTM(4, 4, batch_first=True), nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y, _ = self.gru(self.embedding(x))
        y, _ = self.lstm(y)
        found: torch.Tensor = self.head(y[:, -1])
        return found


class _States(nn.Module):
    """An LSTM's last states begin another one; one weight is used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = (nn.LSTM(4, 4, batch_first=True) for _ in range(2))
        self.head = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y, states = self.one(F.linear(self.head(x), self.head.weight.t()))
        found: torch.Tensor = self.head(self.two(y, states)[0][:, -1])
        return found


class _Block(nn.Module):
    """A transformer's block."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.qkv = nn.LayerNorm(8), nn.Linear(8, 24)
        self.out, self.head = nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.qkv(self.norm(x)).chunk(3, -1)
        q, k, v = (t.reshape(len(x), 3, 2, 4).transpose(1, 2) for t in (q, k, v))
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        x = x + F.gelu(self.out(y))
        found: torch.Tensor = self.head(x.mean(1))
        return found


class _Masked(nn.Module):
    """Attention that sees no padding, by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(4, 4), nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.embedding(x)
        scores = y @ y.transpose(1, 2)
        scores = scores.masked_fill((x == 0).unsqueeze(1), -9.0)
        y = F.elu(scores.softmax(-1) @ y) + F.mish(F.softplus(y))
        y = y / (y.norm(dim=-1, keepdim=True) + 1) + y.exp().clamp(max=3).log1p().abs()
        found: torch.Tensor = self.head(y.amax(1)) ** 1.0
        return found


class _Heads(nn.Module):
    """Two predictions; a computed weight, rounding, waves, and categories as floats."""

    def __init__(self) -> None:
        super().__init__()
        norm = nn.utils.parametrizations.weight_norm
        self.conv, self.kind = norm(nn.Conv1d(2, 4, 2)), nn.Embedding(3, 4)
        self.one, self.two = nn.Linear(4, 3), nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        y = self.conv(x).mean(-1) + self.kind(x[:, 0, 0].abs().clamp(max=2).long())
        y = torch.sin(y) + torch.erf(y) * torch.cos(y)
        y = y + (y.round() - y.floor()).detach()
        return self.one(y), self.two(y)


def _two(out: tuple[torch.Tensor, torch.Tensor], y: torch.Tensor) -> torch.Tensor:
    kind = (2 * y[:, 0]).abs().clamp(max=2).long().unsqueeze(1)
    return 1 - out[0].softmax(1).gather(1, kind).mean() + F.mse_loss(out[1], y[:, 1:])


def _views(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Each half's partner among the batch, and a root of the mean square."""
    z, own = torch.cat([x[:, :3], x[:, 3:]]), torch.arange(2 * len(x))
    alike = (z @ z.t()).masked_fill(torch.eye(len(z), dtype=torch.bool), -1e9)
    apart = F.mse_loss(torch.atan(x), y).sqrt()
    return F.cross_entropy(alike, own.roll(len(x))) + apart


def _video() -> nn.Module:
    return nn.Sequential(
        *(nn.Conv3d(1, 2, 2), nn.ReLU(), nn.AvgPool3d(2, 1), nn.Flatten()),
        nn.Linear(8, 3),
    )


def _weighted(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(x, y, weight=torch.tensor([1.0, 2.0, 3.0]))


def _terms(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(x, y) + 0.1 * (x**2).mean()


def seed_files() -> Iterator[tuple[str, bytes]]:
    """(name, bytes) of each seed: plain and fused, training and evaluation."""
    for name, case in cases().items():
        plain = capture(case.model, case.loss, case.inputs, case.targets)
        fused = replace(
            plain,
            training=optimized(plain.training),
            evaluation=optimized(plain.evaluation),
        )
        for kind, program in (("plain", plain), ("fused", fused)):
            for train in (True, False):
                yield f"{name}-{kind}-{train}", _seed(program, train=train)


def _seed(program: TrainingProgram, *, train: bool) -> bytes:
    graph = program.training if train else program.evaluation
    number = declared(kernels()).fe_program_operation
    made = plan(schedule(graph, program.slots, train=train), lanes=4, blocks=2)
    plan_words = words(made, lambda n: int(number(n.encode())))
    shapes = {}
    for operation in graph.operations:
        rule = rule_of(operation)
        if rule.weight is not None:
            call = operands(operation, graph, program.slots)
            shapes[operation.parameters[0]] = rule.weight(call)
    out = [len(program.slots)]
    for at, parameter in enumerate(program.slots):
        shape, groups = shapes.get(at, ((1, 1), 1))
        kernel = shape[2:] or (1, 1)
        out += (parameter.size, int(parameter.trained), int(at in shapes))
        out += (*shape[:2], groups, *kernel, int(len(shape) == 2))
    outside = [graph.tensors[t] for t in (*graph.inputs, *graph.outputs)]
    out.append(len(outside))
    for tensor in outside:
        out += (tensor.size, int(tensor.whole))
    out.append(SAMPLES)
    return np.array([*out, *plan_words.tolist()], np.int64).tobytes()


def write_seeds(folder: Path) -> list[Path]:
    """Writes every seed file; returns their paths."""
    paths = []
    for name, content in seed_files():
        paths.append(folder / f"{name}.plan")
        paths[-1].write_bytes(content)
    return paths


def fuzz(seeds: Path, *, mutants: int, seed: int) -> dict[str, Any]:
    """Figures of one process; a finding is in words under "finding"."""
    done = subprocess.run(
        [tool(), seeds, str(mutants), str(seed)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        return {"finding": done.stderr[-6000:]}
    figures: dict[str, Any] = json.loads(done.stdout)
    return figures


def main() -> int:
    """Runs from the command line; 1 if there was a finding."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mutants", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        count = len(write_seeds(Path(folder)))
        figures = fuzz(Path(folder), mutants=count * options.mutants, seed=options.seed)
    sys.stdout.write(json.dumps(figures) + "\n")
    return int("finding" in figures)


if __name__ == "__main__":
    sys.exit(main())
