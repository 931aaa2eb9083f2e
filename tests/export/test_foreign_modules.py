"""Modules whose weights, masks or forwards torch's own tools did not leave in order."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
import torch
from onnx import helper
from torch import nn
from torch.nn import functional
from torch.nn.utils import prune

import export
from edge_sdk.errors import ExportError
from export.measure.costs import count_macs
from export.modules import from_module
from export.onnx_graph import dense_graph


class Holds(nn.Module):
    """One linear layer in a block."""

    def __init__(self, layer: nn.Module | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.block = nn.Sequential(nn.ReLU(), layer or nn.Linear(8, 4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.block(x)


def without_parameter(keep: Callable[[nn.Module, torch.Tensor], None]) -> nn.Module:
    model = Holds()
    weight = model.block[1].weight.detach().clone()
    del model.block[1].weight
    keep(model.block[1], weight)
    return model


def hook_cleared() -> nn.Module:
    model = Holds()
    prune.l1_unstructured(model.block[1], "weight", amount=0.5)
    model.block[1]._forward_pre_hooks.clear()
    return model


class OfParts(nn.Linear):
    """Its weight is computed by a property: there is none in the state_dict."""

    def __init__(self) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = 8, 4
        self.left, self.bias = nn.Parameter(torch.ones(4, 2)), None
        self.right = nn.Parameter(torch.ones(2, 8))

    @property
    def weight(self) -> torch.Tensor:
        return self.left @ self.right


UNUSUAL = {
    "hook-cleared": hook_cleared,
    "attribute": lambda: without_parameter(lambda m, w: setattr(m, "weight", w)),
    "buffer": lambda: without_parameter(lambda m, w: m.register_buffer("weight", w)),
    "not-saved": lambda: without_parameter(
        lambda m, w: m.register_buffer("weight", w, persistent=False)
    ),
    "property": lambda: Holds(OfParts()),
}


@pytest.mark.parametrize("case", UNUSUAL)
def test_a_weight_that_is_no_parameter_is_exported(case: str) -> None:
    model = UNUSUAL[case]()
    report = export.build(model, format="onnx-sparse", input_shape=(8,))
    assert report.findings.bitwise
    assert report.density == (0.5 if case == "hook-cleared" else 1.0)


class Masked(nn.Linear):
    """Multiplies with a mask by itself, as tools of pruning research do."""

    def __init__(self, keep: torch.Tensor, *, used: bool = True) -> None:
        super().__init__(8, 4)
        self.register_buffer("mask", keep)
        self.used = used

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weight = self.weight * self.mask if self.used else self.weight
        return functional.linear(x, weight, self.bias)


KEEP = torch.arange(32).reshape(4, 8) % 3 == 0


@pytest.mark.parametrize("kind", [torch.float32, torch.bool, torch.uint8])
def test_a_mask_that_forward_multiplies_with_is_the_layers_mask(
    kind: torch.dtype,
) -> None:
    model = Holds(Masked(KEEP.to(kind)))
    before = model.block[1].weight.clone()
    report = export.build(model, format="native", input_shape=(8,))
    assert report.density == pytest.approx(11 / 32)
    assert torch.equal(model.block[1].weight, before)
    source = from_module(model, (8,))
    np.testing.assert_array_equal(source.mask["block.1.weight"], KEEP.numpy())


def test_zeros_and_ones_that_forward_does_not_multiply_with_are_no_mask() -> None:
    model = Holds(Masked(KEEP, used=False))
    source = from_module(model, (8,))
    assert source.mask["block.1.weight"].all()
    assert torch.equal(source.model.block[1].weight, model.block[1].weight)


# ------------------------------------------------------------------------ refused


def forward(function: Callable[..., object]) -> nn.Module:
    """A module of one layer whose forward is the function of module and inputs."""
    made = type("Own", (Holds,), {"forward": function})()
    assert isinstance(made, nn.Module)
    return made


class Counts(Holds):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return self.block(x) * self.calls


REFUSED = {
    "no-weight": (
        lambda: without_parameter(lambda _, __: None),
        "has no attribute 'weight' .*test_foreign_modules.py, line",
        "input_shape",
    ),
    "weight-none": (
        lambda: without_parameter(lambda m, _: m.register_parameter("weight", None)),
        "must be Tensor, not NoneType",
        "input_shape",
    ),
    "default-that-is-no-use": (
        lambda: forward(lambda self, x, scale=None: self.block(x) * scale),
        "NoneType",
        "also takes scale, which nobody gave",
    ),
    "keywords": (
        lambda: forward(lambda self, x, **more: self.block(x) * more["scale"]),
        "KeyError: 'scale'",
        r"also takes \*\*more",
    ),
    "dropout-always-on": (
        lambda: forward(lambda self, x: functional.dropout(self.block(x))),
        "output 0 of 1 is another one each time",
        "self.training",
    ),
    "random": (
        lambda: forward(lambda self, x: self.block(x) + torch.rand_like(x[:, :4])),
        "another one each time",
        "random",
    ),
    "counter": (Counts, "another one each time", "counters"),
    "fixed-when-traced": (
        lambda: forward(lambda self, x: self.block(x) * x.sum().item()),
        "outputs differ from torch",
        r"\.item\(\)",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_a_forward_needs_and_nobody_gave_is_told(case: str) -> None:
    make, message, remedy = REFUSED[case]
    with pytest.raises(ExportError, match=message) as caught:
        export.build(make(), format="onnx", input_shape=(8,))
    assert remedy.replace("\\", "") in caught.value.help


class Singular(nn.Linear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.linalg.svdvals(super().forward(x).reshape(-1, 2, 2))


class Determinant(nn.Linear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.linalg.det(super().forward(x).reshape(-1, 2, 2))[:, None]


def test_an_operation_that_nobody_knows_is_named_with_its_layer() -> None:
    with pytest.raises(
        ExportError, match=r"aten\._linalg_svd of layer block\.1"
    ) as told:
        export.build(Holds(Singular(8, 4)), format="onnx", input_shape=(8,))
    assert "test_foreign_modules.py, line" in str(told.value)
    assert "end the model before it" in told.value.help


def test_what_the_native_runtime_lacks_is_named_with_its_layer_and_nearest_form() -> (
    None
):
    model = nn.Sequential(Holds(Determinant(8, 4)), nn.ReLU())
    named = r"Det .* of layer 0\.block\.1 is not"
    with pytest.raises(ExportError, match=named) as e:
        export.build(model, format="native", input_shape=(8,))
    assert "products and sums of its values are supported" in str(e.value)


# ------------------------------------------------------- multiply-accumulates


def macs_of(model: nn.Module, shape: tuple[int, ...]) -> tuple[int, float]:
    found = count_macs(dense_graph(from_module(model, shape)).model)
    return found.dense, found.density


class Attends(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ x.transpose(1, 2)


def test_recurrent_transposed_and_products_of_values_are_counted() -> None:
    class Last(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gru = nn.GRU(4, 6, batch_first=True)
            prune.random_unstructured(self.gru, "weight_hh_l0", amount=0.5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.gru(x)[0][:, -1]

    assert macs_of(Last(), (5, 4)) == (5 * 18 * (4 + 6), pytest.approx((72 + 54) / 180))
    transposed = nn.ConvTranspose2d(2, 3, 2, stride=2)
    assert macs_of(transposed, (2, 4, 5)) == (4 * 5 * 2 * 3 * 4, 1.0)
    assert macs_of(Attends(), (7, 3)) == (7 * 7 * 3, 1.0)


def test_a_graph_without_shapes_is_counted_as_one_place_each() -> None:
    weight = onnx.numpy_helper.from_array(np.eye(3, dtype=np.float32), "w")
    free = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, None)
    out = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    graph = helper.make_graph(nodes, "g", [free], [out], [weight])
    opset = [helper.make_opsetid("", 18)]
    found = count_macs(helper.make_model(graph, opset_imports=opset))
    assert (found.kept, found.dense) == (3, 9)
