"""Every masked layer is found in the graph, or left out with its reason."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn
from torch.nn import functional

import export
from edge_sdk.errors import ExportError
from edge_sdk.infer import Bundle
from edge_sdk.sparse import Mask
from export.modules import from_module
from export.rebuild import Source

Made = tuple[nn.Module, tuple[int, ...]]


class Chain(nn.Module):
    """Linear layers behind one another, as their names say."""

    def __init__(self, *layers: nn.Module, names: str = "") -> None:
        super().__init__()
        keys = names.split("|") if names else ("a", "b", "c")
        self.layers = nn.ModuleDict(dict(zip(keys, layers, strict=True)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers.values():
            x = functional.relu(layer(x))
        return x.mean(1) if x.ndim > 2 else x


class Scaled(nn.Module):
    """Its weight is scaled before it is used, and once more the other way round."""

    def __init__(self, *, turned: bool = False) -> None:
        super().__init__()
        self.a, self.turned = nn.Linear(8, 8), turned

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weight = self.a.weight * 0.5
        return functional.linear(x, weight.T if self.turned else weight, self.a.bias)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(4)
        nn.init.uniform_(self.norm.running_var, 0.5, 2.0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.relu(self.norm(self.conv(x)))


class Blocks(nn.Module):
    """Copies of one block, batch norm and all: equal after folding, too."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.out = Block(), nn.Linear(4, 3)
        self.second, self.third = copy.deepcopy(self.first), copy.deepcopy(self.first)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.second(self.first(x)) + self.third(x)
        return self.out(x.mean((2, 3)))


class Twins(nn.Module):
    """Two equal layers on the same input: the exporter makes one operation of them."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(8, 4)
        self.b = copy.deepcopy(self.a)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.relu(self.a(x)) + torch.tanh(self.b(x))


def chain(
    change: Callable[[list[nn.Linear]], None], *given: int, names: str = ""
) -> Made:
    layers = [nn.Linear(8, 8) for _ in range(3)]
    with torch.no_grad():
        change(layers)
    return Chain(*layers, names=names), given or (8,)


def emptied(layers: list[nn.Linear]) -> None:
    for layer in layers[1:]:
        layer.weight.zero_()


def copied(layers: list[nn.Linear]) -> None:
    for layer in layers[1:]:
        layer.weight.copy_(layers[0].weight)
        layer.bias.copy_(layers[0].bias)


def turned(layers: list[nn.Linear]) -> None:
    layers[1].weight.copy_(layers[0].weight.T)


def symmetric(layers: list[nn.Linear]) -> None:
    layers[0].weight.add_(layers[0].weight.T.clone())
    copied(layers)


def tied(layers: list[nn.Linear]) -> None:
    layers[2].weight = layers[0].weight


def reused(layers: list[nn.Linear]) -> None:
    layers[2] = layers[0]


def without_bias(layers: list[nn.Linear]) -> None:
    for layer in layers:
        layer.bias.zero_()


MADE: dict[str, Callable[[], Made]] = {
    "emptied by pruning": lambda: chain(emptied),
    "emptied, on sequences": lambda: chain(emptied, 5, 8),
    "copies": lambda: chain(copied),
    "copies, on sequences": lambda: chain(copied, 5, 8),
    "transposed copies": lambda: chain(turned),
    "transposed copies, on sequences": lambda: chain(turned, 5, 8),
    "symmetric copies": lambda: chain(symmetric, 5, 8),
    "tied": lambda: chain(tied),
    "tied, on sequences": lambda: chain(tied, 5, 8),
    "one module twice": lambda: chain(reused),
    "zero biases": lambda: chain(without_bias),
    "odd names": lambda: chain(copied, names="a-b c|é/ü|x:y"),
    "copied blocks": lambda: (Blocks(), (4, 6, 6)),
    "equal layers on one input": lambda: (Twins(), (8,)),
    "scaled": lambda: (Scaled(), (8,)),
    "scaled and turned": lambda: (Scaled(turned=True), (8,)),
}


def pruned(made: Made) -> Source:
    torch.manual_seed(5)
    model, shape = made
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                module.weight[module.weight.abs() < 0.1] = 0
    return from_module(model, shape)


@pytest.mark.parametrize("name", MADE)
def test_every_layer_is_found_whatever_the_exporter_merged(name: str) -> None:
    source = pruned(MADE[name]())
    report = export.build_source(source, format="onnx-sparse")
    assert report.findings.weights_checked == len(source.mask.layers)
    assert report.left_out == {}


@pytest.mark.parametrize("form", ["native", "native-int8", "onnx-fp16", "onnx"])
@pytest.mark.parametrize("name", ["emptied by pruning", "copied blocks", "tied"])
def test_formats_find_them_too(name: str, form: str) -> None:
    source = pruned(MADE[name]())
    report = export.build_source(source, format=form)
    assert report.findings.weights_checked == len(source.mask.layers)


def test_a_stray_weight_of_a_copy_is_noticed() -> None:
    """Equal values under different masks: each layer is compared with its own."""
    source = pruned(MADE["copies"]())
    patterns = {name: source.mask[name].copy() for name in source.mask}
    last = sorted(patterns)[-1]
    row, column = np.argwhere(patterns[last])[0]
    patterns[last][row, column] = False
    with pytest.raises(ExportError, match=f"{last}: 1 weights off the mask"):
        export.build_source(replace(source, mask=Mask(patterns)))


# ----------------------------------------------------------- not used in evaluation


class Helped(nn.Module):
    """Heads of the two kinds, and a layer that nothing calls."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(12, 24)
        self.out, self.aux = nn.Linear(24, 4), nn.Linear(24, 4)
        self.late, self.never = nn.Linear(4, 4), nn.Linear(5, 6)
        self.register_buffer("constant", torch.ones(1, 4))
        self.fixed = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = functional.relu(self.body(x))
        out = self.out(hidden) + self.fixed(self.constant)
        return (
            out + self.aux(hidden) if self.training else self.late(functional.relu(out))
        )


def helped() -> Source:
    torch.manual_seed(1)
    return from_module(Helped(), (12,))


@pytest.mark.parametrize(
    "form", ["onnx", "onnx-sparse", "onnx-fp16", "ort", "native", "native-int8"]
)
def test_what_evaluation_does_not_use_is_left_out_with_a_note(form: str) -> None:
    report = export.build_source(helped(), format=form)
    assert set(report.left_out) == {"aux.weight", "never.weight", "fixed.weight"}
    assert report.findings.weights_checked == 3
    text = "\n".join(report.lines())
    assert "aux.weight is left out: no output of the model in evaluation" in text
    assert "fixed.weight is left out: the graph holds it only as a part of" in text


def test_the_weights_are_not_in_the_file(tmp_path: Path) -> None:
    out = tmp_path / "m.onnx"
    export.build_source(helped(), format="onnx", out=out)
    held = {tensor.name for tensor in onnx.load(out).graph.initializer}
    assert {"body.weight", "out.weight", "late.weight"} <= held
    assert not any(name.startswith(("aux", "never")) for name in held)


def test_a_model_of_which_nothing_is_used_is_refused() -> None:
    class Idle(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(3, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * 2

    with pytest.raises(ExportError, match="no masked weight of model is in its eval"):
        export.build_source(from_module(Idle(), (3,)))


AUXILIARY = """
import numpy as np
from torch import nn
from torch.nn import functional
from edge_sdk.tasks import Examples, Task

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(16, 64)
        self.out, self.aux = nn.Linear(64, 4), nn.Linear(64, 4)
    def forward(self, x):
        h = functional.relu(self.a(x))
        return (self.out(h), self.aux(h)) if self.training else self.out(h)

def loss(out, target):
    return functional.cross_entropy(out[0] if isinstance(out, tuple) else out, target)

def examples(folder):
    rng = np.random.default_rng(0)
    return Examples(rng.normal(size=(60, 16)).astype(np.float32), np.arange(60) % 4)

task = Task(name="aux", model=Net, loss=loss, train_data=examples,
            eval_data=examples, input_shape=(16,))
"""


def test_a_checkpoint_with_a_training_head_is_built_verified_and_bundled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edge_sdk.checkpoint import Checkpoint
    from edge_sdk.sparse import draw, erk, exact_counts
    from edge_sdk.tasks.layers import initial_state, layers_of
    from edge_sdk.tasks.task import load_task
    from export.bundle import make_bundle

    (tmp_path / "flash_aux_task.py").write_text(AUXILIARY)
    monkeypatch.syspath_prepend(tmp_path)
    task = load_task("flash_aux_task:task")
    layers, state = layers_of(task.model()), initial_state(task, 0)
    mask = draw(layers, exact_counts(erk(layers), layers, 0.4), 1)
    checkpoint = Checkpoint(
        task="flash_aux_task:task", round_no=1, layers=layers, mask=mask,
        values={n: state[n][mask[n]] for n in mask},
        dense={n: a for n, a in state.items() if n not in mask.layers}, metrics={},
    )  # fmt: skip
    for form, suffix in (("onnx-sparse", "onnx"), ("native", "flsp")):
        out = tmp_path / f"m.{suffix}"
        built = export.build(checkpoint, format=form, out=out)
        assert set(built.left_out) == {"aux.weight"}
        assert export.verify(out, checkpoint).left_out == built.left_out
    int8 = export.build(
        checkpoint, format="onnx-int8", data=tmp_path, accuracy_points=99
    )
    assert set(int8.left_out) == {"aux.weight"}
    made = make_bundle(checkpoint, tmp_path / "bundle")
    assert set(made["models"]["native"]["left_out"]) == {"aux.weight"}
    assert Bundle(tmp_path / "bundle").check() <= 1e-5
