"""Recurrent layers, embeddings and transposed convolutions under a mask."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from edge_sdk.errors import DensityError, EngineError, MaskMismatchError
from edge_sdk.sparse import LayerShape, Mask, draw
from edge_sdk.sparse.density import exact_counts, nested_counts, uniform
from edge_sdk.sparse.units import unit_boxes
from edge_sdk.tasks.graph.units import with_units
from edge_sdk.tasks.layers import first_kinds, layers_of
from edge_sdk.tasks.trace import trace_step
from edge_sdk.training.masked import masked_model
from edge_sdk.training.rules.swat import swat_model
from edge_sdk.wire.messages import MaskRecipe
from edge_sdk.wire.recipe import mask_of, named_layers


class Series(nn.Module):
    """A recurrent layer and a head on its last step."""

    def __init__(self, layer: nn.RNNBase) -> None:
        super().__init__()
        self.layer = layer
        ways = 1 + layer.bidirectional
        self.head = nn.Linear(ways * (layer.proj_size or layer.hidden_size), 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.layer(x)[0][:, -1])
        return out


class Words(nn.Module):
    """A character model: embedding, GRU, head at each position."""

    def __init__(self, tokens: int = 30, size: int = 6) -> None:
        super().__init__()
        self.words = nn.Embedding(tokens, size, padding_idx=0)
        self.gru = nn.GRU(size, 8, batch_first=True)
        self.head = nn.Linear(8, tokens)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.gru(self.words(x))[0])
        return out


MODELS: dict[str, tuple[Callable[[], nn.Module], Tensor]] = {
    "gru": (lambda: Series(nn.GRU(5, 8, 2, batch_first=True, bidirectional=True)),
            torch.randn(4, 6, 5)),
    "lstm": (lambda: Series(nn.LSTM(5, 8, 2, batch_first=True)), torch.randn(4, 6, 5)),
    "lstm, projected": (lambda: Series(nn.LSTM(5, 8, proj_size=3, batch_first=True)),
                        torch.randn(4, 6, 5)),
    "rnn": (lambda: Series(nn.RNN(5, 8, batch_first=True)), torch.randn(4, 6, 5)),
    "words": (Words, torch.randint(0, 30, (4, 6))),
    "transposed": (lambda: nn.Sequential(
        nn.ConvTranspose2d(4, 6, 3, stride=2, groups=2), nn.ReLU(),
        nn.ConvTranspose2d(6, 2, 2)), torch.randn(4, 4, 5, 5)),
    "transposed 1d": (lambda: nn.Sequential(
        nn.Conv1d(3, 6, 3), nn.ConvTranspose1d(6, 2, 4, stride=2)),
        torch.randn(4, 3, 9)),
    "volumes": (lambda: nn.Sequential(
        nn.Conv3d(2, 4, 3), nn.ConvTranspose3d(4, 2, 2)), torch.randn(4, 2, 5, 5, 5)),
    "attention": (lambda: Attention(), torch.randn(4, 5, 8)),  # noqa: PLW0108
}  # fmt: skip


class Attention(nn.Module):
    """Self-attention and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.attention(x, x, x)[0].mean(1))
        return out


@pytest.mark.filterwarnings("ignore:LSTM with projections")
@pytest.mark.parametrize("name", list(MODELS))
def test_the_dense_masked_engine_trains_kept_values_only(name: str) -> None:
    """Beside torch: the gradient of each kept value, and steps on nothing else."""
    make, x = MODELS[name]
    torch.manual_seed(0)
    model = make()
    layers = layers_of(model)
    mask = draw(layers, exact_counts(uniform(layers), layers, 0.4), 3)
    patterns = {n: torch.from_numpy(np.array(mask[n])) for n in mask}
    with torch.no_grad():
        for layer in layers:
            model.get_parameter(layer.name).mul_(patterns[layer.name])
    weights = {
        n: p.detach().clone().requires_grad_() for n, p in model.named_parameters()
    }
    functional_call(model, weights, (x,)).square().sum().backward()
    ours = masked_model(make(), mask)
    state = {n: t.numpy() for n, t in model.state_dict().items()}
    values = {n: state[n][np.array(mask[n])] for n in mask}
    ours.load(values, {n: a for n, a in state.items() if n not in values})
    ours.train()
    optimizer = torch.optim.SGD(ours.parameters(), lr=1e-3)
    for step in range(2):
        optimizer.zero_grad()
        loss = ours(x).square().sum()
        loss.backward()
        if step == 0:
            for n, p in ours.named_parameters():
                wanted = weights[n].grad
                wanted = wanted[patterns[n]] if n in patterns else wanted
                torch.testing.assert_close(p.grad, wanted, rtol=1e-4, atol=1e-5)
            first = float(loss.detach())
        optimizer.step()
    assert float(ours(x).square().sum().detach()) < first
    assert {n: v.size for n, v in ours.values().items()} == dict(mask.counts)


@pytest.mark.parametrize("name", ["gru", "words", "transposed", "attention"])
def test_sparse_passes_name_the_layer_that_has_none(name: str) -> None:
    """SWAT knows linear layers and convolutions; the others may be kept dense."""
    model = MODELS[name][0]()
    sizes = {s.name: s.numel for s in layers_of(model)}
    mask = Mask({s.name: np.ones(s.shape, np.bool_) for s in layers_of(model)})
    with pytest.raises(EngineError, match="has no sparse passes") as caught:
        swat_model(model, mask, sizes, dict.fromkeys(sizes, 0.5))
    assert "dense_layers" in caught.value.help


def test_cells_and_their_weights_are_found_in_the_model_s_order() -> None:
    model = nn.ModuleDict(
        {"cell": nn.LSTMCell(3, 4), "up": nn.ConvTranspose1d(6, 4, 3, groups=2)}
    )
    assert layers_of(model) == (
        LayerShape("cell.weight_ih", (16, 3)),
        LayerShape("cell.weight_hh", (16, 4)),
        LayerShape("up.weight", (6, 2, 3), 2),
    )
    assert layers_of(model)[-1].columns_out


@pytest.mark.parametrize("options", [{"max_norm": 1.0}, {"sparse": True}], ids=str)
def test_an_embedding_that_torch_changes_by_itself_stays_dense(
    options: dict[str, object],
) -> None:
    model = nn.ModuleDict(
        {"words": nn.Embedding(9, 4, **options), "out": nn.Linear(4, 9)}  # type: ignore[arg-type]
    )
    assert [s.name for s in layers_of(model)] == ["out.weight"]


def test_a_large_vocabulary_does_not_ask_for_a_weight_of_each_token() -> None:
    """Rows of an embedding are tokens, not units: one may keep no weight."""
    words = LayerShape("words.weight", (5000, 16), columns_out=True)
    layers = (words, LayerShape("out.weight", (40, 64)))
    counts = exact_counts(uniform(layers), layers, 0.02)
    assert sum(counts.values()) == int(0.02 * (5000 * 16 + 40 * 64))
    mask = draw(layers, counts, 1)
    assert mask["words.weight"].any(axis=0).all()


def test_a_density_below_one_weight_of_each_output_channel_is_refused() -> None:
    up = LayerShape("up.weight", (2, 30, 2, 2), columns_out=True)
    (count,) = exact_counts(uniform((up,)), (up,), 0.13).values()
    pattern = draw((up,), {"up.weight": count}, 1)["up.weight"]
    assert pattern.any(axis=(0, 2, 3)).all()
    with pytest.raises(DensityError, match=r"smallest density is 0\.1250"):
        exact_counts(uniform((up,)), (up,), 0.1)


@pytest.mark.parametrize("name", ["gru", "words", "transposed", "attention"])
def test_masks_by_units_leave_these_layers_whole(name: str) -> None:
    """Their units are not followed: what enters or leaves them is never cut."""
    model = MODELS[name][0]()
    layers = with_units(model, layers_of(model))
    others = {n for n in (s.name for s in layers) if n not in first_kinds(model)}
    assert others
    assert all(
        s.outputs is None and s.inputs is None for s in layers if s.name in others
    )
    assert unit_boxes(layers, 0.3).keys().isdisjoint(others)


def test_units_before_and_behind_a_recurrent_layer_are_found_but_not_at_it() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(5, 6), nn.Linear(6, 6)
            self.rnn = nn.GRU(6, 4, batch_first=True)
            self.c, self.d = nn.Linear(4, 6), nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            y = self.rnn(self.b(self.a(x).relu()).unsqueeze(1))[0].mean(1)
            out: Tensor = self.d(self.c(y).relu())
            return out

    net = Net()
    cut = unit_boxes(with_units(net, layers_of(net)), 0.5)
    assert cut == {
        "a.weight": (3, 5), "b.weight": (6, 3), "c.weight": (3, 4), "d.weight": (3, 3),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("model", "shape", "expected"),
    [
        pytest.param(Series(nn.GRU(5, 7, batch_first=True)), (6, 5),
                     {"layer.weight_ih_l0": 6 * 105, "layer.weight_hh_l0": 6 * 147},
                     id="gru"),
        pytest.param(Series(nn.LSTM(5, 7, 1, True, True, 0.0, True)), (6, 5),
                     {"layer.weight_ih_l0": 6 * 140, "layer.weight_hh_l0": 6 * 196,
                      "layer.weight_hh_l0_reverse": 6 * 196}, id="lstm"),
        pytest.param(nn.ConvTranspose2d(4, 6, 3, stride=2, groups=2), (4, 5, 5),
                     {"weight": 4 * 3 * 9 * 25}, id="transposed"),
    ],
)  # fmt: skip
def test_multiplications_are_counted(
    model: nn.Module, shape: tuple[int, ...], expected: dict[str, int]
) -> None:
    found = trace_step(model, shape).macs
    assert {n: found[n] for n in expected} == expected


def test_looked_up_values_are_counted_and_not_the_vocabulary() -> None:
    x = torch.randint(0, 30, (4, 9))
    assert trace_step(Words(), (9,), examples=x).macs["words.weight"] == 9 * 6


def test_a_recipe_of_an_older_run_masks_what_it_names() -> None:
    """0.1.0 masked convolutions and linear layers: its runs go on with these."""
    model = Words()
    now = layers_of(model)
    then = layers_of(model, only=first_kinds(model))
    assert [s.name for s in then] == ["head.weight"]
    counts = nested_counts(uniform(then), then, [0.3])[0.3]
    mask = draw(then, counts, 7)
    recipe = MaskRecipe(7, counts, mask.digest)
    assert mask_of(recipe, named_layers(recipe, now)) == mask
    assert isinstance(mask, Mask)
    newer = MaskRecipe(7, {"head.weight": 9, "mixer.weight": 3}, mask.digest)
    with pytest.raises(MaskMismatchError, match=r"masks mixer\.weight"):
        named_layers(newer, now)
