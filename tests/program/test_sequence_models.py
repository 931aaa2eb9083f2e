"""Transformers, squeeze-excite, autoencoders and every activation, beside torch."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from beside_torch import Case, loaded, mask_of, three_steps
from torch import nn

from edge_sdk.errors import DataError, EngineError
from edge_sdk.program.capture import capture, compiled
from edge_sdk.sparse import Mask


class Attention(nn.Module):
    """Heads cut from one projection, as timm writes it."""

    def __init__(self, width: int, heads: int, *, causal: bool = False) -> None:
        super().__init__()
        self.heads, self.causal = heads, causal
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n, t, f = x.shape
        parts = self.qkv(x).reshape(n, t, 3, self.heads, f // self.heads)
        q, k, v = parts.permute(2, 0, 3, 1, 4).unbind(0)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        out: torch.Tensor = self.out(y.transpose(1, 2).reshape(n, t, f))
        return out


class Chunked(Attention):
    """The same by chunk, view and transpose."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n, t, f = x.shape
        parts = self.qkv(x).chunk(3, dim=-1)
        q, k, v = (p.view(n, t, self.heads, -1).transpose(1, 2) for p in parts)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        out: torch.Tensor = self.out(y.transpose(1, 2).contiguous().view(n, t, f))
        return out


class Block(nn.Module):
    def __init__(self, attention: nn.Module, width: int) -> None:
        super().__init__()
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = attention
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attention(self.first(x))
        return x + self.down(F.gelu(self.up(self.second(x))))


class Vit(nn.Module):
    """Patches, a class token, positions, two blocks."""

    def __init__(self, kind: type[Attention], width: int = 12) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, 4, stride=4)
        self.token = nn.Parameter(torch.randn(1, 1, width))
        self.positions = nn.Parameter(torch.randn(1, 5, width) * 0.1)
        self.blocks = nn.Sequential(*(Block(kind(width, 3), width) for _ in range(2)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], dim=1)
        x = self.norm(self.blocks(x + self.positions[:, : x.shape[1]]))
        out: torch.Tensor = self.head(x[:, 0])
        return out


class Encoder(nn.Module):
    """Causal, over a series; the mean over time, and a scale per feature."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(3, 8)
        self.block = Block(Attention(8, 2, causal=True), 8)
        self.scale = nn.Parameter(torch.rand(8))
        self.head = nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.block(self.embed(x)) * self.scale
        out: torch.Tensor = self.head(F.log_softmax(y, -1).mean(1))
        return out


class SqueezeExcite(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(2, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.down, self.up = nn.Conv2d(8, 4, 1), nn.Conv2d(4, 8, 1)
        self.head = nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.hardswish(self.norm(self.conv(x)))
        gate = F.hardsigmoid(self.up(F.relu(self.down(x.mean((2, 3), keepdim=True)))))
        out: torch.Tensor = self.head((x * gate).mean((2, 3)))
        return out


def autoencoder(activation: nn.Module) -> nn.Module:
    return nn.Sequential(
        *(nn.Linear(30, 16), activation, nn.Linear(16, 4), activation),
        *(nn.Linear(4, 16), activation, nn.Linear(16, 30)),
    )


ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu6": nn.ReLU6,
    "hardtanh": lambda: nn.Hardtanh(-0.5, 0.5),
    "leaky_relu": lambda: nn.LeakyReLU(0.1),
    "gelu": nn.GELU,
    "gelu_tanh": lambda: nn.GELU("tanh"),
    "silu": nn.SiLU,
    "hardswish": nn.Hardswish,
    "hardsigmoid": nn.Hardsigmoid,
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
}


def case_of(name: str, samples: int = 19) -> Case:
    torch.manual_seed(0)
    labels = torch.randint(0, 5, (samples,))
    match name:
        case "vit":
            return Case(Vit(Attention), torch.randn(samples, 3, 8, 8), labels)
        case "vit, chunked":
            return Case(Vit(Chunked), torch.randn(samples, 3, 8, 8), labels)
        case "encoder":
            return Case(Encoder(), torch.randn(samples, 7, 3), labels)
        case "squeeze-excite":
            return Case(SqueezeExcite(), torch.randn(samples, 2, 6, 7), labels)
        case _:
            x = torch.rand(samples, 30)
            return Case(autoencoder(ACTIVATIONS[name]()), x, x, F.mse_loss)


WHOLE = ["vit", "vit, chunked", "encoder", "squeeze-excite"]


def layers_of(model: nn.Module, density: float) -> Mask:
    """Masks of layers' weights; tokens and positions stay dense."""
    mask = mask_of(model, density)
    return Mask({n: mask[n] for n in mask if n.endswith(".weight")})


@pytest.mark.parametrize("name", [*WHOLE, *ACTIVATIONS])
def test_three_steps_give_torchs_update(name: str) -> None:
    case = case_of(name)
    optimizer = {"vit": "adamw", "encoder": "momentum"}.get(name, "sgd")
    assert three_steps(case, layers_of(case.model, 0.4), optimizer) < 1e-4


@pytest.mark.parametrize("name", WHOLE)
def test_predictions_are_torchs(name: str) -> None:
    case = case_of(name)
    ours = loaded(case, Mask({}))
    with torch.no_grad():
        expected = case.model.eval()(case.inputs).numpy()
    np.testing.assert_allclose(ours.predict(case.inputs.numpy()), expected, atol=1e-4)


@pytest.mark.parametrize("name", WHOLE)
def test_threads_give_the_same_bits(name: str) -> None:
    case = case_of(name)
    found = []
    for threads in (1, 2, 4):
        model = loaded(case, layers_of(case.model, 0.3), threads=threads)
        loss = model.backward(case.inputs.numpy(), case.targets.numpy())
        found.append((loss, model.gradient_vector.tobytes()))
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize("name", ["vit", "encoder", "gelu"])
def test_micro_batches_give_the_same_gradient_in_less_memory(name: str) -> None:
    case = case_of(name, 64)
    model = loaded(case, layers_of(case.model, 0.3))
    x, y = case.inputs.numpy(), case.targets.numpy()
    model.backward(x, y)
    whole = model.gradient_vector.copy()
    model.backward(x, y, micro_batch=16)
    assert model.arena_bytes(64, micro_batch=16) < 0.5 * model.arena_bytes(64)
    np.testing.assert_allclose(
        model.gradient_vector, whole, atol=1e-5 * np.abs(whole).max()
    )


Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
CLASS_LOSSES: dict[str, Loss] = {
    "smoothing": lambda x, y: F.cross_entropy(x, y, label_smoothing=0.1),
    "ignore": lambda x, y: F.cross_entropy(x, y, ignore_index=3),
    "nll": lambda x, y: F.nll_loss(F.log_softmax(x, 1), y),
}


@pytest.mark.parametrize("name", CLASS_LOSSES)
@pytest.mark.parametrize("positions", [(), (6,)], ids=["samples", "positions"])
def test_class_losses_are_torchs(name: str, positions: tuple[int, ...]) -> None:
    torch.manual_seed(1)
    if positions:
        model: nn.Module = nn.Conv1d(3, 5, 3, padding=1)
        inputs = torch.randn(21, 3, *positions)
    else:
        model, inputs = nn.Linear(7, 5), torch.randn(21, 7)
    targets = torch.randint(0, 5, (21, *positions))
    case = Case(model, inputs, targets, CLASS_LOSSES[name])
    assert three_steps(case, mask_of(model, 0.7), "momentum") < 1e-4


def test_ignored_labels_count_over_the_batch_and_not_the_micro_batch() -> None:
    torch.manual_seed(1)
    layer, targets = nn.Linear(7, 5), torch.randint(0, 5, (32,))
    targets[:9] = 3
    case = Case(layer, torch.randn(32, 7), targets, CLASS_LOSSES["ignore"])
    model, x = loaded(case, Mask({})), case.inputs.numpy()
    loss = model.backward(x, targets.numpy())
    whole = model.gradient_vector.copy()
    assert model.backward(x, targets.numpy(), micro_batch=8) == pytest.approx(loss)
    np.testing.assert_allclose(model.gradient_vector, whole, atol=1e-6)


@pytest.mark.parametrize(
    "loss",
    [F.l1_loss, F.smooth_l1_loss, F.huber_loss, F.binary_cross_entropy_with_logits],
)
def test_value_losses_are_torchs(loss: Loss) -> None:
    torch.manual_seed(1)
    model = nn.Linear(7, 4)
    case = Case(model, torch.randn(21, 7), torch.rand(21, 4), loss)
    assert three_steps(case, mask_of(model, 0.7)) < 1e-4


def test_a_wrong_label_names_its_example() -> None:
    case = case_of("encoder")
    model, targets = loaded(case, Mask({})), case.targets.numpy().copy()
    targets[11] = 5
    with pytest.raises(DataError, match="example 11 of its batch"):
        model.backward(case.inputs.numpy(), targets)


def test_dropout_scales_what_it_keeps_and_draws_anew_each_step() -> None:
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(8, 64), nn.Dropout(0.5), nn.Linear(64, 1))
    case = Case(model, torch.randn(32, 8), torch.randn(32, 1), F.mse_loss)
    runs = []
    for micro_batch in (0, 8):
        own = loaded(case, Mask({}))
        x, y = case.inputs.numpy(), case.targets.numpy()
        losses = [own.backward(x, y, micro_batch=micro_batch) for _ in range(3)]
        assert len(set(losses)) == 3
        keyed = [own.backward(x, y, draw=draw) for draw in (5, 6, 5)]
        assert keyed[0] == keyed[2] != keyed[1]
        runs.append(losses)
    assert runs[0] == pytest.approx(runs[1], rel=1e-5)
    with torch.no_grad():
        expected = model.eval()(case.inputs).numpy()
    np.testing.assert_allclose(own.predict(case.inputs.numpy()), expected, atol=1e-5)


class Dropping(nn.Module):
    """Dropout as a module, as a function, and within attention."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.drop = nn.Linear(6, 6), nn.Dropout(0.3)
        self.head = nn.Linear(6, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        p = 0.2 if self.training else 0.0
        y = self.drop(self.layer(x))
        y = F.scaled_dot_product_attention(y, y, y, dropout_p=p)
        out: torch.Tensor = self.head(F.dropout(y, 0.4, self.training).mean(1))
        return out


def test_a_program_with_dropout_is_compared_with_torch_without_it() -> None:
    torch.manual_seed(0)
    x, y = torch.randn(16, 4, 6), torch.randint(0, 5, (16,))
    found = compiled(Dropping(), F.cross_entropy, x, y)
    assert found.file, found.reason


def test_what_cannot_be_is_named_with_its_layer() -> None:
    class AlongBatch(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.softmax(x, 0)

    x = torch.randn(3, 4, 4)
    for model, why in ((AlongBatch(), "along the batch"),):
        with pytest.raises(EngineError, match=f"layer 0: .*{why}"):
            capture(nn.Sequential(model), F.mse_loss, x, x)
