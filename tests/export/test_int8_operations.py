"""Operations of `onnx-int8` whose inputs are rounded, and layers that steps share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import nn
from torch.nn.utils import prune

import export
from edge_sdk.kernels.build import find_compiler, this_machine

WIDTH = 32


class Rms(nn.Module):
    """A norm by its formula."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x / torch.sqrt((x * x).mean(-1, keepdim=True) + 1e-6)


class Group(nn.Module):
    """Norms of two groups of a row's values."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(2, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(x.transpose(1, 2)).transpose(1, 2)


class Attention(nn.Module):
    """No norm: products of queries and keys show what is small in the sum."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.layer(x)
        return (y @ y.transpose(1, 2) / 30).softmax(-1) @ y


class Stream(nn.Module):
    """Blocks that add to a sum one entry of which is far larger than the others."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.enter = nn.Linear(16, WIDTH)
        self.blocks = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(2))
        self.norm, self.head = norm, nn.Linear(WIDTH, 4)
        large = torch.zeros(WIDTH)
        large[3] = 600.0
        self.register_buffer("large", large)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.enter(x) + self.large
        for block in self.blocks:
            x = x + block(self.norm(x))
        return self.head(self.norm(x).mean(1))


def rounded(file: str) -> set[str]:
    """Operations that the file gives rounded values."""
    graph = onnx.load(file).graph
    back = {n.output[0] for n in graph.node if n.op_type == "DequantizeLinear"}
    return {n.op_type for n in graph.node if back & set(n.input)}


@pytest.mark.parametrize("norm", [nn.LayerNorm(WIDTH), Rms(), Group()], ids=str)
def test_a_sum_that_norms_of_each_example_read_is_not_rounded(
    norm: nn.Module, tmp_path
) -> None:
    torch.manual_seed(0)
    given = np.random.default_rng(0).standard_normal((64, 6, 16)).astype(np.float32)
    file = tmp_path / "model.onnx"
    report = export.build(Stream(norm), format="onnx-int8", calibration=given, out=file)
    assert report.findings.drift is not None
    assert report.findings.drift.output_error <= 0.1
    assert rounded(str(file)) <= {"MatMul", "Gemm", "Add"}


def test_products_of_two_values_are_not_rounded(tmp_path) -> None:
    torch.manual_seed(0)
    given = np.random.default_rng(0).standard_normal((64, 6, 16)).astype(np.float32)
    file = tmp_path / "model.onnx"
    export.build(Stream(Attention()), format="onnx-int8", calibration=given, out=file)
    graph = onnx.load(file).graph
    back = {n.output[0] for n in graph.node if n.op_type == "DequantizeLinear"}
    products = [n for n in graph.node if n.op_type == "MatMul"]
    both = [n for n in products if back >= set(n.input)]
    assert (len(both), len(products)) == (6, 12)  # two of a call's three are of values
    assert "Softmax" not in rounded(str(file))


class Recurrent(nn.Module):
    def __init__(self, **options: object) -> None:
        super().__init__()
        ways = 1 + bool(options.get("bidirectional"))
        self.cell = nn.RNN(16, 64, **options)
        self.head = nn.Linear(64 * ways, 4)
        self.first = not options.get("batch_first")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.transpose(0, 1) if self.first else x
        found = self.cell(x)[0]
        return self.head(found[-1] if self.first else found[:, -1])


@pytest.mark.parametrize(
    "options",
    [
        {"num_layers": 2, "bidirectional": True, "batch_first": True},
        {"nonlinearity": "relu", "bias": False},
    ],
    ids=["two layers both ways", "relu, no bias, steps first"],
)
def test_an_rnn_is_one_operation_in_every_format(options, tmp_path) -> None:
    torch.manual_seed(0)
    model = Recurrent(**options)
    for name, _ in list(model.cell.named_parameters()):
        if name.startswith("weight"):
            prune.l1_unstructured(model.cell, name, amount=0.9)
    given = np.random.default_rng(0).standard_normal((32, 40, 16)).astype(np.float32)
    formats = ["onnx", "onnx-sparse", "onnx-int8"]
    if find_compiler(this_machine()) is not None:
        formats += ["native", "native-int8"]
    found = export.build(model, tmp_path, formats=formats, calibration=given)
    graph = onnx.load(found.files["onnx"]).graph
    layers = options.get("num_layers", 1)
    assert sum(node.op_type == "RNN" for node in graph.node) == layers
    assert len(graph.node) < 20  # and not its forty steps
    assert found["onnx"].findings.parity.max_relative <= 1e-5
    assert found["onnx-int8"].file_bytes < found["onnx-sparse"].file_bytes


class SoftPlaces(nn.Module):
    """Places of key points: means over maps of shares, which hardly vary."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.maps = nn.Sequential(
            nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 5, 1)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shares = self.maps(x).flatten(2).softmax(-1).reshape(-1, 5, 16, 16)
        line = torch.linspace(-1, 1, 16)
        across, down = ((shares.sum(axis) * line).sum(-1) for axis in (2, 3))
        return torch.stack((across, down), -1)


def grouped() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.ConvTranspose2d(8, 4, 4, 2, 1, groups=2)
    )


@pytest.mark.parametrize("make", [SoftPlaces, grouped])
def test_models_that_suffer_are_rounded_in_their_layers_alone(make: Any) -> None:
    rows = np.random.default_rng(0).standard_normal((48, 3, 16, 16))
    found = export.build(
        make(), format="onnx-int8", calibration=rows.astype(np.float32)
    )
    drift = found.findings.drift
    assert drift is not None
    assert drift.output_error <= 0.1


def test_a_head_that_suffers_stays_float(tmp_path: Path) -> None:
    """It reads large values that hardly vary: one scale for them rounds that away."""
    torch.manual_seed(0)
    body = [nn.Sequential(nn.Linear(16, 16), nn.Tanh()) for _ in range(7)]
    model = nn.Sequential(*body, nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 4))
    with torch.no_grad():
        model[7].bias += 1000
        last = model[9].weight
        last -= last.mean(1, keepdim=True)
    given = np.random.default_rng(0).standard_normal((64, 16)).astype(np.float32)
    out = tmp_path / "head.onnx"
    report = export.build(model, out, format="onnx-int8", calibration=given)
    assert report.findings.drift is not None
    assert report.findings.drift.output_error <= 0.05
    kinds = {t.name: t.data_type for t in onnx.load(out).graph.initializer}
    whole = [n for n, kind in kinds.items() if kind == onnx.TensorProto.INT8]
    assert {n.split(".")[0] for n in whole if "weight_quantized" in n} >= {"0", "6"}
    assert "9.weight_quantized" not in kinds


class Heads(nn.Module):
    """Two heads on one body, of which one reads large values that hardly vary."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 16))
        self.large, self.near = nn.Linear(16, 16), nn.Linear(16, 4)
        self.other = nn.Sequential(nn.Linear(16, 8), nn.Tanh(), nn.Linear(8, 4))
        with torch.no_grad():
            self.large.bias += 1000
            self.near.weight -= self.near.weight.mean(1, keepdim=True)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        seen = self.body(x)
        return self.near(self.large(seen).relu()), self.other(seen)


def test_of_several_heads_the_one_that_suffers_stays_float(tmp_path: Path) -> None:
    torch.manual_seed(0)
    given = np.random.default_rng(0).standard_normal((64, 16)).astype(np.float32)
    out = tmp_path / "heads.onnx"
    report = export.build(
        Heads(), out, format="onnx-int8", input_shape=16, calibration=given
    )
    assert report.findings.drift is not None
    assert report.findings.drift.output_error <= 0.05
    names = {t.name for t in onnx.load(out).graph.initializer}
    whole = {n.split(".weight")[0] for n in names if "weight_quantized" in n}
    assert whole == {"body.0", "body.2", "other.0", "other.2"}
