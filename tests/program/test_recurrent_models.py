"""GRU, LSTM and RNN models and a character model, trained by their program."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from beside_torch import Case, loaded, mask_of, three_steps
from torch import Tensor, nn

from edge_sdk.errors import DataError, EngineError
from edge_sdk.program.capture import capture
from edge_sdk.sparse import Mask


class LastStep(nn.Module):
    """A recurrent layer and a head on what comes last: keywords, spoken digits."""

    def __init__(self, layer: nn.RNNBase, take: str = "step") -> None:
        super().__init__()
        self.layer, self.take = layer, take
        ways = 1 + layer.bidirectional
        self.head = nn.Linear(layer.hidden_size * ways, 5)

    def forward(self, x: Tensor) -> Tensor:
        if not self.layer.batch_first:
            x = x.permute(1, 0, 2)
        y, state = self.layer(x)
        state = state[0] if isinstance(state, tuple) else state
        if self.take == "state":
            last = torch.cat([state[-2], state[-1]], 1) if len(state) > 1 else state[-1]
        elif self.take == "mean":
            last = y.mean(1)
        else:
            last = y[:, -1] if self.layer.batch_first else y[-1]
        out: Tensor = self.head(last)
        return out


class Series(nn.Module):
    """An LSTM that foretells each next value."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(3, 20, 2, batch_first=True), nn.Linear(20, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.lstm(x)[0])
        return out


class Characters(nn.Module):
    """A character model: the class of the next one at every position."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(17, 6, padding_idx=0)
        self.gru, self.head = nn.GRU(6, 24, batch_first=True), nn.Linear(24, 17)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.gru(self.words(x))[0]).transpose(1, 2)
        return out


LAYERS: dict[str, Callable[[], nn.Module]] = {
    "gru": lambda: LastStep(nn.GRU(6, 20, batch_first=True)),
    "gru, both ways": lambda: LastStep(
        nn.GRU(6, 10, 2, batch_first=True, bidirectional=True), "state"
    ),
    "gru, steps first": lambda: LastStep(nn.GRU(6, 20)),
    "lstm": lambda: LastStep(nn.LSTM(6, 20, batch_first=True), "state"),
    "lstm, both ways": lambda: LastStep(
        nn.LSTM(6, 10, batch_first=True, bidirectional=True), "mean"
    ),
    "rnn": lambda: LastStep(nn.RNN(6, 20, 2, batch_first=True, bias=False)),
    "rnn, relu": lambda: LastStep(nn.RNN(6, 20, nonlinearity="relu"), "state"),
}
NAMES = [*LAYERS, "series", "characters"]


def case_of(name: str, samples: int = 21) -> Case:
    torch.manual_seed(0)
    if name == "series":
        x = torch.randn(samples, 12, 3)
        return Case(Series(), x, torch.roll(x, 1, 1), F.mse_loss)
    if name == "characters":
        x = torch.randint(0, 17, (samples, 9))
        return Case(Characters(), x, torch.roll(x, 1, 1))
    return Case(
        LAYERS[name](), torch.randn(samples, 11, 6), torch.randint(0, 5, (samples,))
    )


@pytest.mark.parametrize(
    ("name", "optimizer"),
    [*((name, "momentum") for name in NAMES), ("gru", "adam"), ("characters", "adamw")],
)
def test_three_steps_give_torch_s_update(name: str, optimizer: str) -> None:
    case = case_of(name)
    assert three_steps(case, mask_of(case.model, 0.4), optimizer) < 1e-4


@pytest.mark.parametrize("name", NAMES)
def test_predictions_are_torch_s(name: str) -> None:
    case = case_of(name)
    ours = loaded(case, Mask({}))
    with torch.no_grad():
        expected = case.model.eval()(case.inputs).numpy()
    np.testing.assert_allclose(ours.predict(case.inputs.numpy()), expected, atol=1e-5)


@pytest.mark.parametrize("name", ["gru, both ways", "lstm", "characters"])
def test_threads_give_the_same_bits_and_chunks_the_same_gradient(name: str) -> None:
    case = case_of(name, 64)
    mask = mask_of(case.model, 0.3)
    found, losses = [], []
    for threads, micro_batch in ((1, 0), (2, 0), (4, 0), (1, 16)):
        model = loaded(case, mask, threads=threads)
        inputs, targets = case.inputs.numpy(), case.targets.numpy()
        losses.append(model.backward(inputs, targets, micro_batch=micro_batch))
        found.append(model.gradient_vector.copy())
    assert found[0].tobytes() == found[1].tobytes() == found[2].tobytes()
    assert losses[0] == pytest.approx(losses[3], rel=1e-6)
    scale = np.abs(found[0]).max()
    np.testing.assert_allclose(found[3], found[0], atol=1e-5 * scale)


def test_dropout_between_layers_is_of_training_alone() -> None:
    torch.manual_seed(0)
    model = LastStep(nn.GRU(6, 20, 2, batch_first=True, dropout=0.5))
    case = Case(model, torch.randn(8, 5, 6), torch.randint(0, 5, (8,)))
    ours = loaded(case, mask_of(model, 0.5))
    with torch.no_grad():
        for name, pattern in mask_of(model, 0.5).layers.items():
            model.get_parameter(name).mul_(torch.from_numpy(np.array(pattern)))
        expected = model.eval()(case.inputs).numpy()
    np.testing.assert_allclose(ours.predict(case.inputs.numpy()), expected, atol=1e-5)
    each = {ours.backward(case.inputs.numpy(), case.targets.numpy()) for _ in "12"}
    assert len(each) == 2


def test_the_padding_token_s_row_does_not_move() -> None:
    case = case_of("characters")
    ours = loaded(case, Mask({}))
    ours.backward(case.inputs.numpy(), case.targets.numpy())
    gradient = ours.gradients["words.weight"]
    assert not gradient[0].any()
    assert np.abs(gradient[1:]).max() > 0


@pytest.mark.parametrize("token", [-1, 17])
def test_a_token_out_of_range_is_named_with_its_layer(token: int) -> None:
    case = case_of("characters")
    ours = loaded(case, mask_of(case.model, 0.5))
    inputs = case.inputs.numpy().copy()
    inputs[20, 8] = token
    with pytest.raises(DataError, match=r"words: embedding .*out of range"):
        ours.backward(inputs, case.targets.numpy())
    ours.backward(case.inputs.numpy(), case.targets.numpy())


@pytest.mark.filterwarnings("ignore:LSTM with projections")
def test_a_projection_of_the_state_is_refused_with_its_layer() -> None:
    model = nn.Sequential(nn.LSTM(6, 4, batch_first=True, proj_size=3))
    batch = torch.randn(4, 5, 6), torch.randint(0, 3, (4,))
    with pytest.raises(EngineError, match=r"^layer 0: lstm.*a projection"):
        capture(model, lambda out, y: F.cross_entropy(out[0][:, -1], y), *batch)
