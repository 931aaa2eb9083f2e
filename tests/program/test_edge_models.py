"""Small models as edge teams write them, trained by their program beside torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from beside_torch import Case, loaded, mask_of, three_steps
from torch import nn

from edge_sdk.errors import DataError, EngineError
from edge_sdk.program.capture import capture, compiled
from edge_sdk.program.file import pack_program, unpack_program
from edge_sdk.program.open import program_layers
from edge_sdk.sparse import Mask

N = 9
Function = Callable[[Any, torch.Tensor], torch.Tensor]
Make = Callable[[], Case]


class Model(nn.Module):
    """A function of its own layers, parameters and buffers."""

    def __init__(self, function: Function, **parts: Any) -> None:
        super().__init__()
        self.function = function
        for name, part in parts.items():
            if isinstance(part, torch.Tensor) and not isinstance(part, nn.Parameter):
                self.register_buffer(name, part, persistent=False)
            else:
                setattr(self, name, part)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(self, x)


def labels(classes: int = 5, *shape: int) -> torch.Tensor:
    return torch.randint(0, classes, (N, *shape))


def encoder(**options: Any) -> nn.Module:
    return nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, **options)


# -------------------------------------------------------------------------- attention


def batch_first() -> Case:
    model = Model(
        lambda m, x: m.head(m.encoder(x)[:, 0]),
        encoder=nn.TransformerEncoder(
            encoder(batch_first=True, norm_first=True, activation="gelu"),
            num_layers=2,
            norm=nn.LayerNorm(8),
            enable_nested_tensor=False,
        ),
        head=nn.Linear(8, 5),
    )
    return Case(model, torch.randn(N, 6, 8), labels())


def sequence_first() -> Case:
    model = Model(
        lambda m, x: m.head(m.encoder(x.transpose(0, 1)).mean(0)),
        encoder=encoder(),
        head=nn.Linear(8, 5),
    )
    return Case(model, torch.randn(N, 6, 8), labels())


def padded_tokens() -> Case:
    def run(m: Any, t: torch.Tensor) -> torch.Tensor:
        absent = t == 0
        x = m.words(t) + m.places(torch.arange(t.size(1)))
        x = m.encoder(x, src_key_padding_mask=absent)
        there = (~absent).unsqueeze(-1).float()
        out: torch.Tensor = m.head((x * there).sum(1) / there.sum(1).clamp(min=1))
        return out

    tokens = torch.randint(1, 20, (N, 7))
    tokens[:, 5:], tokens[2, 3:] = 0, 0
    model = Model(
        run,
        words=nn.Embedding(20, 8, padding_idx=0),
        places=nn.Embedding(10, 8),
        encoder=encoder(batch_first=True),
        head=nn.Linear(8, 5),
    )
    return Case(model, tokens, labels())


def causal_masks() -> Case:
    def run(m: Any, x: torch.Tensor) -> torch.Tensor:
        size = x.size(1)
        y, _ = m.attention(x, x, x, attn_mask=m.mask[:size, :size])
        q, k, v = m.qkv(x + y + m.sines[:, :size]).chunk(3, -1)
        seen = torch.ones(size, size, dtype=torch.bool).tril()
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=seen)
        out: torch.Tensor = m.head(y.mean(1))
        return out

    model = Model(
        run,
        attention=nn.MultiheadAttention(8, 2, batch_first=True),
        qkv=nn.Linear(8, 24),
        head=nn.Linear(8, 5),
        mask=torch.triu(torch.full((8, 8), float("-inf")), 1),
        sines=torch.arange(80.0).reshape(1, 10, 8).sin(),
    )
    return Case(model, torch.randn(N, 6, 8), labels())


def by_hand() -> Case:
    def run(m: Any, x: torch.Tensor) -> torch.Tensor:
        q, k, v = (p.unflatten(-1, (2, 4)) for p in m.qkv(x).chunk(3, -1))
        seen = torch.einsum("bqhd,bkhd->bhqk", q, k).softmax(-1)
        y = torch.einsum("bhqk,bkhd->bqhd", seen, v).flatten(2)
        a = torch.softmax(y @ x.transpose(-2, -1) / 8**0.5, -1) @ y
        weights = m.pool(a).softmax(1).transpose(1, 2)
        out: torch.Tensor = torch.bmm(weights, a).squeeze(1) @ m.head + m.bias
        return out

    model = Model(
        run,
        qkv=nn.Linear(8, 24),
        pool=nn.Linear(8, 1),
        head=nn.Parameter(torch.randn(8, 5)),
        bias=nn.Parameter(torch.randn(5)),
    )
    return Case(model, torch.randn(N, 6, 8), labels())


def decoder() -> Case:
    model = Model(
        lambda m, x: m.head(m.decoder(m.query.expand(len(x), -1, -1), x).flatten(1)),
        decoder=nn.TransformerDecoderLayer(8, 2, 16, dropout=0.0, batch_first=True),
        query=nn.Parameter(torch.randn(1, 2, 8)),
        head=nn.Linear(16, 5),
    )
    return Case(model, torch.randn(N, 6, 8), labels())


# ----------------------------------------------------------------- signals and images


def recurrent_sequence_first() -> Case:
    def run(m: Any, x: torch.Tensor) -> torch.Tensor:
        y, h = m.gru(x.permute(1, 0, 2), torch.zeros(4, len(x), 6))
        last = h.permute(1, 0, 2).reshape(len(x), -1)
        out: torch.Tensor = m.head(torch.cat([y.mean(0), last], 1))
        return out

    gru = nn.GRU(4, 6, 2, bidirectional=True)
    model = Model(run, gru=gru, head=nn.Linear(36, 5))
    return Case(model, torch.randn(N, 7, 4), labels())


def video() -> Case:
    model = nn.Sequential(
        *(nn.Conv3d(2, 4, 3, padding=1), nn.BatchNorm3d(4), nn.ReLU()),
        *(nn.MaxPool3d(2), nn.Conv3d(4, 6, (2, 3, 3), groups=2, bias=False)),
        *(nn.AvgPool3d((1, 2, 2), 1), nn.AdaptiveAvgPool3d(1), nn.Flatten()),
        nn.Linear(6, 5),
    )
    return Case(model, torch.randn(N, 2, 6, 8, 8), labels())


def frames_of_a_clip() -> Case:
    def run(m: Any, x: torch.Tensor) -> torch.Tensor:
        n, t, c, h, w = x.shape
        y = F.relu(m.conv(x.view(n * t, c, h, w))).mean((2, 3)).view(n, t, -1)
        out: torch.Tensor = m.head(torch.cat([y.mean(1), y.std(1), y.amax(1)], 1))
        return out

    model = Model(run, conv=nn.Conv2d(2, 4, 3), head=nn.Linear(12, 5))
    return Case(model, torch.randn(N, 3, 2, 6, 6), labels())


def shuffled() -> Case:
    model = nn.Sequential(
        *(nn.Conv2d(4, 8, 1, groups=2), nn.ChannelShuffle(2), nn.PixelShuffle(2)),
        *(nn.Conv2d(2, 4, 3), nn.InstanceNorm2d(4, affine=True), nn.PReLU(4)),
        *(nn.LocalResponseNorm(3), nn.PixelUnshuffle(2), nn.Dropout2d(0.0)),
        *(nn.Conv2d(16, 8, 1), nn.GLU(1), nn.AdaptiveMaxPool2d(2), nn.Flatten()),
        nn.Linear(16, 5),
    )
    return Case(model, torch.randn(N, 4, 5, 5), labels())


def gated() -> Case:
    def run(m: Any, x: torch.Tensor) -> torch.Tensor:
        x = m.conv(x.float() / 255 - m.mean)
        n, c, _, _ = x.size()
        gate = torch.sigmoid(m.gate(F.adaptive_avg_pool2d(x, 1).view(n, c)))
        x = x * gate.view(n, c, 1, 1).expand_as(x)
        both = x[:, :4] - torch.roll(x[:, 4:], 1, 3)
        out: torch.Tensor = m.head(torch.stack([both.abs(), both], 1).mean((3, 4))
                                   .flatten(1)[:, [0, 2, 4, 5]])  # fmt: skip
        return out

    model = Model(
        run,
        conv=nn.Conv2d(1, 8, 3),
        gate=nn.Linear(8, 8),
        head=nn.Linear(4, 5),
        mean=torch.tensor(0.4),
    )
    pixels = torch.randint(0, 255, (N, 1, 6, 6), dtype=torch.uint8)
    return Case(model, pixels, labels())


# ------------------------------------------------------------------ values and numbers


def activations() -> Case:
    kinds = (
        *(nn.ELU(0.7), nn.SELU(), nn.CELU(0.8), nn.Mish(), nn.Softplus(2.0, 5.0)),
        *(nn.LogSigmoid(), nn.Softsign(), nn.PReLU(), nn.Hardshrink(0.1)),
        *(nn.Softshrink(0.1), nn.Threshold(-0.3, 0.1), nn.Tanhshrink()),
    )
    layers = [part for kind in kinds for part in (kind, nn.Linear(8, 8))]
    model = nn.Sequential(nn.Linear(6, 8), *layers, nn.RMSNorm(8), nn.Linear(8, 5))
    return Case(model, torch.randn(N, 6), labels())


def numbers() -> Case:
    def run(m: Any, x: torch.Tensor) -> torch.Tensor:
        y = m.layer(x)
        z = torch.where(y > 0, y, 0.1 * y) + y.clamp(min=-0.5) + torch.max(y, x)
        z = z + torch.log1p(y.abs()) + torch.exp(-y.square()) / (1 + y**2)
        z = (z - z.mean(-1, keepdim=True)) / (z.var(-1, keepdim=True) + 1e-5).sqrt()
        z = F.normalize(z, dim=-1) * m.temperature.exp() + (y < x).float() * x**3
        z = z.masked_fill((z > 2) | (z < -2), 0.0) - torch.logsumexp(y, 1, True)
        w = F.normalize(m.weight)
        return F.linear(z.view(-1, 4, 2).max(-1).values, w)

    model = Model(
        run,
        layer=nn.Linear(8, 8),
        temperature=nn.Parameter(torch.tensor(0.1)),
        weight=nn.Parameter(torch.randn(5, 4)),
    )
    return Case(model, torch.randn(N, 8), labels())


def one_hot() -> Case:
    model = Model(
        lambda m, t: m.head(F.one_hot(t, 12).float().flatten(1)), head=nn.Linear(36, 5)
    )
    return Case(model, labels(12, 3), labels())


MODELS: list[Make] = [
    *(batch_first, sequence_first, padded_tokens, causal_masks, by_hand, decoder),
    *(recurrent_sequence_first, video, frames_of_a_clip, shuffled, gated),
    *(activations, numbers, one_hot),
]


@pytest.mark.parametrize("make", MODELS, ids=lambda make: make.__name__)
def test_three_steps_give_torchs_update(make: Make) -> None:
    torch.manual_seed(0)
    case = make()
    before = {n: t.clone() for n, t in case.model.state_dict().items()}
    assert three_steps(case, Mask({}), "momentum") < 1e-4
    case.model.load_state_dict(before)
    ours = loaded(case, Mask({}))
    with torch.no_grad():
        expected = case.model.eval()(case.inputs).numpy()
    np.testing.assert_allclose(ours.predict(case.inputs.numpy()), expected, atol=1e-4)


def test_a_masked_convolution_of_videos_moves_its_kept_weights_alone() -> None:
    torch.manual_seed(0)
    case = video()
    assert three_steps(case, mask_of(case.model, 0.4), "adamw") < 1e-4


@pytest.mark.parametrize("make", [padded_tokens, video, by_hand])
def test_threads_give_the_same_bits(make: Make) -> None:
    torch.manual_seed(0)
    case = make()
    found = []
    for threads in (1, 2, 4):
        model = loaded(case, Mask({}), threads=threads)
        loss = model.backward(case.inputs.numpy(), case.targets.numpy())
        found.append((loss, model.gradient_vector.tobytes()))
    assert found[0] == found[1] == found[2]


# ----------------------------------------------------------------------------- losses

WEIGHT = torch.tensor([1.0, 2.0, 0.5, 1.0, 3.0])


def _focal(p: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    terms = F.cross_entropy(p, t, reduction="none", weight=WEIGHT)
    return ((1 - torch.exp(-terms)) ** 2 * terms).mean()


def _two_heads(p: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    first = F.cross_entropy(p[:, :2], t[:, 0])
    return first + 0.5 * F.cross_entropy(p[:, 2:], t[:, 1], label_smoothing=0.1)


def _divergence(p: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    return F.kl_div(F.log_softmax(p, 1), t, reduction="batchmean")


def _several(p: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    squares = ((p - t) ** 2).sum(1).mean() / 3
    return squares + 0.3 * F.l1_loss(p, t) - 0.1 * F.huber_loss(p, t)


def _of_probabilities(p: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    return F.binary_cross_entropy(torch.sigmoid(p), t)


LOSSES: dict[str, tuple[Any, str]] = {
    "class weights": (nn.CrossEntropyLoss(weight=WEIGHT), "class"),
    "weights and smoothing": (
        lambda p, t: F.cross_entropy(p, t, weight=WEIGHT, label_smoothing=0.1),
        "class",
    ),
    "likelihood with weights": (
        lambda p, t: F.nll_loss(F.log_softmax(p, 1), t, weight=WEIGHT),
        "class",
    ),
    "focal": (_focal, "class"),
    "two heads": (_two_heads, "pair"),
    "soft targets": (F.cross_entropy, "share"),
    "divergence": (_divergence, "share"),
    "several terms": (_several, "value"),
    "positive weight": (nn.BCEWithLogitsLoss(pos_weight=WEIGHT), "truth"),
    "value weights": (nn.BCEWithLogitsLoss(weight=WEIGHT), "truth"),
    "probabilities": (_of_probabilities, "truth"),
}


def case_of(name: str, samples: int = 21) -> Case:
    torch.manual_seed(0)
    loss, kind = LOSSES[name]
    targets = {
        "class": torch.randint(0, 5, (samples,)),
        "pair": torch.randint(0, 2, (samples, 2)),
        "share": torch.randn(samples, 5).softmax(1),
        "value": torch.randn(samples, 5),
        "truth": (torch.rand(samples, 5) > 0.5).float(),
    }
    return Case(nn.Linear(8, 5), torch.randn(samples, 8), targets[kind], loss)


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_is_torchs_with_its_gradient_in_any_chunks(name: str) -> None:
    case = case_of(name)
    model = loaded(case, Mask({}))
    x, y = case.inputs.numpy(), case.targets.numpy()
    expected = case.loss(case.model(case.inputs), case.targets)
    expected.backward()  # type: ignore[no-untyped-call]
    loss = model.backward(x, y)
    assert loss == pytest.approx(float(expected.detach()), rel=1e-5)
    for own in case.model.parameters():
        own.grad = None
    assert three_steps(case, Mask({}), "momentum") < 1e-4
    whole = model.gradient_vector.copy()
    if name != "two heads":  # its labels are parts of the targets
        assert model.backward(x, y, micro_batch=16) == pytest.approx(loss, rel=1e-6)
        np.testing.assert_allclose(model.gradient_vector, whole, atol=2e-7)


def test_weights_at_each_pixel_leave_ignored_labels_out() -> None:
    torch.manual_seed(0)
    targets = labels(5, 4, 4)
    targets[0, 0], targets[3] = 255, 255
    loss = nn.CrossEntropyLoss(weight=WEIGHT, ignore_index=255)
    model = nn.Conv2d(3, 5, 3, padding=1)
    case = Case(model, torch.randn(N, 3, 4, 4), targets, loss)
    assert three_steps(case, Mask({}), "momentum") < 1e-4


def test_a_label_that_is_no_class_is_an_error_in_terms_too() -> None:
    case = case_of("focal")
    model = loaded(case, Mask({}))
    with pytest.raises(DataError, match="out of range"):
        model.backward(case.inputs.numpy(), case.targets.numpy() + 1)


# ------------------------------------------------------------- what programs have not


def _sum_loss(p: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(p, t, reduction="none").sum()


def _over_the_batch(m: Any, x: torch.Tensor) -> torch.Tensor:
    out: torch.Tensor = m.head(x - x.mean(0))
    return out


REFUSED: dict[str, tuple[Make, str]] = {
    "a sum over the batch": (
        lambda: Case(nn.Linear(8, 5), torch.randn(N, 8), labels(), _sum_loss),
        "a sum over the batch, not a mean",
    ),
    "over the batch": (
        lambda: Case(
            Model(_over_the_batch, head=nn.Linear(8, 5)), torch.randn(N, 8), labels()
        ),
        r"the model: mean.dim \(test_edge_models.py:\d+\): works along the batch",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_programs_have_not_is_refused_in_one_sentence(name: str) -> None:
    torch.manual_seed(0)
    make, why = REFUSED[name]
    case = make()
    with pytest.raises(EngineError, match=why):
        capture(case.model, case.loss, case.inputs, case.targets)
    found = compiled(case.model, case.loss, case.inputs, case.targets)
    assert not found.file
    assert "\n" not in found.reason


def test_dropout_within_torchs_layers_is_left_out_of_the_comparison() -> None:
    torch.manual_seed(0)
    model = Model(
        lambda m, x: m.head(m.gru(m.encoder(x))[0].mean(1)),
        encoder=nn.TransformerEncoderLayer(8, 2, 16, dropout=0.3, batch_first=True),
        gru=nn.GRU(8, 8, 2, dropout=0.3, batch_first=True),
        head=nn.Linear(8, 5),
    )
    found = compiled(model, F.cross_entropy, torch.randn(N, 6, 8), labels())
    assert found.file, found.reason


def test_a_program_with_constants_is_the_same_after_its_bytes() -> None:
    torch.manual_seed(0)
    case = causal_masks()
    program = capture(case.model, case.loss, case.inputs, case.targets)
    assert program.constants
    assert unpack_program(pack_program(program)) == program


def test_a_table_that_is_a_constant_is_no_layer_of_a_mask() -> None:
    torch.manual_seed(0)
    case = one_hot()
    program = capture(case.model, case.loss, case.inputs, case.targets)
    assert [layer.name for layer in program_layers(program)] == ["head.weight"]
