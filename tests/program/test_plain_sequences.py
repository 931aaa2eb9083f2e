"""Models of series and words as people write them: each trains as torch does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from beside_torch import Case, loaded
from plain_models import Plain, classes, copies, error_of, tokens
from torch import nn

from edge_sdk.errors import EngineError
from edge_sdk.kernels.library import unavailable_reason
from edge_sdk.sparse import Mask

pytestmark = pytest.mark.skipif(bool(unavailable_reason()), reason="no kernels")


def tcn() -> Case:
    def run(m: Any, x: torch.Tensor) -> torch.Tensor:
        for conv, norm, dilation in ((m.a, m.na, 1), (m.b, m.nb, 2), (m.c, m.nc, 4)):
            padded = F.pad(x, (2 * dilation, 0))
            x = x + F.relu(norm(conv(padded)))
        return m.head(x[:, :, -1])

    convs = {
        k: nn.Conv1d(6, 6, 3, dilation=d) for k, d in zip("abc", (1, 2, 4), strict=True)
    }
    norms = {f"n{k}": nn.BatchNorm1d(6) for k in "abc"}
    return classes(Plain(run, **convs, **norms, head=nn.Linear(6, 4)), 6, 12)


def conv_lstm() -> Case:
    def run(m: Any, x: torch.Tensor) -> torch.Tensor:
        y = F.max_pool1d(F.relu(m.conv(x)), 2).permute(0, 2, 1)
        out, (h, _) = m.lstm(y)
        return m.head(torch.cat([h[-1], out.mean(1)], 1))

    model = Plain(
        run,
        conv=nn.Conv1d(3, 6, 3, padding=1),
        lstm=nn.LSTM(6, 5, batch_first=True),
        head=nn.Linear(10, 4),
    )
    return classes(model, 3, 12)


def unet_1d() -> Case:
    def run(m: Any, x: torch.Tensor) -> torch.Tensor:
        a = F.relu(m.down1(x))
        b = F.relu(m.down2(F.max_pool1d(a, 2)))
        up = F.interpolate(b, scale_factor=2, mode="nearest")
        return m.out(torch.cat((up, a), dim=1))

    model = Plain(
        run,
        down1=nn.Conv1d(2, 6, 3, padding=1),
        down2=nn.Conv1d(6, 6, 3, padding=1),
        out=nn.Conv1d(12, 2, 1),
    )
    return copies(model, 2, 12)


def cls_encoder() -> Case:
    def run(m: Any, x: torch.Tensor) -> torch.Tensor:
        token = m.cls.expand(x.shape[0], -1, -1)
        x = torch.cat([token, m.embed(x)], 1) + m.position
        return m.head(m.norm(m.layer(x))[:, 0])

    model = Plain(
        run,
        cls=nn.Parameter(torch.randn(1, 1, 8)),
        position=nn.Parameter(torch.randn(1, 7, 8)),
        embed=nn.Linear(5, 8),
        layer=nn.TransformerEncoderLayer(8, 2, 12, 0.0, batch_first=True),
        norm=nn.LayerNorm(8),
        head=nn.Linear(8, 4),
    )
    return classes(model, 6, 5)


def attentive_gru() -> Case:
    def run(m: Any, x: torch.Tensor) -> torch.Tensor:
        h, _ = m.gru(x)
        weight = torch.softmax(m.score(torch.tanh(m.key(h))).squeeze(-1), dim=1)
        return m.head(torch.bmm(weight.unsqueeze(1), h).squeeze(1))

    model = Plain(
        run,
        gru=nn.GRU(5, 6, batch_first=True),
        key=nn.Linear(6, 6),
        score=nn.Linear(6, 1),
        head=nn.Linear(6, 4),
    )
    return classes(model, 8, 5)


def bag() -> Case:
    model = Plain(
        lambda m, x: m.head(m.bag(x)), bag=nn.EmbeddingBag(11, 6), head=nn.Linear(6, 4)
    )
    return tokens(model, 5, 11)


def mean_of_words() -> Case:
    model = Plain(
        lambda m, x: m.head(m.words(x).mean(1)),
        words=nn.Embedding(11, 6, padding_idx=0),
        head=nn.Linear(6, 4),
    )
    return tokens(model, 5, 11)


def wavenet() -> Case:
    def run(m: Any, x: torch.Tensor) -> torch.Tensor:
        x, skips = m.first(x), 0
        for gate, value, out, d in (
            (m.g1, m.v1, m.o1, 1),
            (m.g2, m.v2, m.o2, 2),
        ):
            padded = F.pad(x, (d, 0))
            y = out(torch.tanh(value(padded)) * torch.sigmoid(gate(padded)))
            x, skips = x + y, skips + y
        return m.head(F.relu(skips).mean(-1))

    layers: dict[str, nn.Module] = {
        f"{k}{d}": nn.Conv1d(5, 5, 2, dilation=d) for k in "gv" for d in (1, 2)
    }
    layers |= {f"o{d}": nn.Conv1d(5, 5, 1) for d in (1, 2)}
    model = Plain(run, first=nn.Conv1d(2, 5, 1), head=nn.Linear(5, 4), **layers)
    return classes(model, 2, 10)


def einsum() -> Case:
    def run(m: Any, x: torch.Tensor) -> torch.Tensor:
        scores = torch.einsum("btf,bsf->bts", m.query(x), m.key(x)) / 2.0
        mixed = torch.einsum("bts,bsf->btf", scores.softmax(-1), x)
        return m.head(mixed.sum(1))

    model = Plain(run, query=nn.Linear(5, 4), key=nn.Linear(5, 4), head=nn.Linear(5, 4))
    return classes(model, 6, 5)


def cumulative() -> Case:
    model = Plain(
        lambda m, x: m.head(torch.cumsum(m.body(x), dim=1)[:, -1]),
        body=nn.Linear(5, 6),
        head=nn.Linear(6, 4),
    )
    return classes(model, 6, 5)


def masked_mean() -> Case:
    def run(m: Any, x: torch.Tensor) -> torch.Tensor:
        kept = (x.abs().sum(-1, keepdim=True) > 3.0).float()
        h = m.body(x) * kept
        return m.head(h.sum(1) / kept.sum(1).clamp(min=1.0))

    return classes(Plain(run, body=nn.Linear(5, 6), head=nn.Linear(6, 4)), 6, 5)


def tied_words() -> Case:
    def run(m: Any, x: torch.Tensor) -> torch.Tensor:
        return m.out(m.gru(m.words(x))[0][:, -1])

    words, out = nn.Embedding(9, 6), nn.Linear(6, 9, bias=False)
    out.weight = words.weight
    model = Plain(run, words=words, gru=nn.GRU(6, 6, batch_first=True), out=out)
    return tokens(model, 5, 9, 9)


def places() -> Case:
    """Copies of an axis, chosen places of one, logarithms of other bases."""

    def run(m: Any, x: torch.Tensor) -> torch.Tensor:
        h = m.body(x).repeat(1, 3, 2).tile(1, 1, 2)
        h = h.index_select(1, torch.tensor([4, 0, 11]))
        h = torch.log2(h.abs() + 1) + torch.log10(h.abs() + 2)
        return m.head(h.flatten(1))

    return classes(Plain(run, body=nn.Linear(5, 3), head=nn.Linear(36, 4)), 4, 5)


DENSE = {"tied_words": ["out.weight"]}
MODELS = [
    tcn,
    conv_lstm,
    unet_1d,
    cls_encoder,
    attentive_gru,
    bag,
    mean_of_words,
    wavenet,
    einsum,
    cumulative,
    masked_mean,
    tied_words,
    places,
]


@pytest.mark.parametrize("make", MODELS, ids=lambda m: m.__name__)
def test_it_trains_as_torch_does(make: Callable[[], Case]) -> None:
    assert error_of(make, DENSE.get(make.__name__, ())) < 1e-4


def test_a_weight_of_two_names_moves_under_both() -> None:
    torch.manual_seed(4)
    case = tied_words()
    ours = loaded(case, Mask({}))
    before = ours.dense()["out.weight"]
    ours.backward(case.inputs.numpy(), case.targets.numpy())
    ours.weight_vector -= ours.gradient_vector
    after = ours.dense()
    assert not np.array_equal(before, after["out.weight"])
    assert np.array_equal(after["words.weight"], after["out.weight"])


def test_a_mask_on_a_weight_of_two_names_is_refused_with_the_remedy() -> None:
    torch.manual_seed(4)
    case = tied_words()
    pattern = np.ones((9, 6), np.bool_)
    for name in ("words.weight", "out.weight"):
        with pytest.raises(EngineError, match=f"are one weight.*has {name}"):
            loaded(case, Mask({name: pattern}))
