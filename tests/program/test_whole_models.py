"""Whole models trained by their program, beside torch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from beside_torch import OPTIMIZERS, Case, loaded, mask_of, three_steps
from torch import nn

from edge_sdk.errors import DataError, EngineError
from edge_sdk.program.capture import capture
from edge_sdk.sparse import Mask


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(2, 8, 3, padding=1)
        self.second = nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.relu(self.first(x))
        y = F.relu(self.norm(self.second(y)) + y)
        out: torch.Tensor = self.head(F.max_pool2d(y, 2).mean((2, 3)))
        return out


def motion(norm: type[nn.Module] = nn.BatchNorm1d) -> nn.Sequential:
    def normed(channels: int) -> nn.Module:
        return norm(4, channels) if norm is nn.GroupNorm else norm(channels)

    return nn.Sequential(
        *(nn.Conv1d(3, 8, 5, stride=2, padding=2), normed(8), nn.ReLU()),
        nn.MaxPool1d(2),
        *(nn.Conv1d(8, 16, 3, padding="same"), normed(16), nn.ReLU(inplace=True)),
        *(nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(16, 5)),
    )


def case_of(name: str, samples: int = 21) -> Case:
    torch.manual_seed(0)
    labels = torch.randint(0, 5, (samples,))
    match name:
        case "motion":
            return Case(motion(), torch.randn(samples, 3, 40), labels)
        case "motion, group norm":
            model = motion(nn.GroupNorm)
            return Case(model, torch.randn(samples, 3, 40), labels)
        case "residual":
            return Case(Residual(), torch.randn(samples, 2, 9, 10), labels)
        case "tokens":
            model = nn.Sequential(
                *(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 3)),
                *(nn.Flatten(), nn.Linear(21, 5)),
            )
            return Case(model, torch.randn(samples, 7, 6), labels)
        case _:
            model = nn.Sequential(nn.Linear(20, 8), nn.ReLU(), nn.Linear(8, 20))
            x = torch.randn(samples, 20)
            return Case(model, x, x, F.mse_loss)


NAMES = ["motion", "motion, group norm", "residual", "tokens", "autoencoder"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_three_steps_give_torch_s_update(name: str, optimizer: str) -> None:
    case = case_of(name)
    clip = 0.5 if optimizer == "momentum" else 0.0
    mask = mask_of(case.model, 0.4)
    assert three_steps(case, mask, optimizer, clip=clip) < 1e-4


@pytest.mark.parametrize("name", NAMES)
def test_predictions_are_torch_s(name: str) -> None:
    case = case_of(name)
    ours = loaded(case, Mask({}))
    with torch.no_grad():
        expected = case.model.eval()(case.inputs).numpy()
    np.testing.assert_allclose(ours.predict(case.inputs.numpy()), expected, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_any_number_of_threads_gives_the_same_bits(name: str) -> None:
    case = case_of(name)
    mask = mask_of(case.model, 0.3)
    found = []
    for threads in (1, 2, 4):
        model = loaded(case, mask, threads=threads)
        loss = model.backward(case.inputs.numpy(), case.targets.numpy())
        found.append((loss, model.gradient_vector.tobytes()))
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize("name", ["motion, group norm", "tokens", "autoencoder"])
def test_micro_batches_take_less_memory_for_the_same_gradient(name: str) -> None:
    case = case_of(name, 64)
    model = loaded(case, mask_of(case.model, 0.3))
    x, y = case.inputs.numpy(), case.targets.numpy()
    loss = model.backward(x, y)
    whole = model.gradient_vector.copy()
    assert model.backward(x, y, micro_batch=16) == pytest.approx(loss, rel=1e-6)
    assert model.arena_bytes(64, micro_batch=16) < 0.4 * model.arena_bytes(64)
    np.testing.assert_allclose(
        model.gradient_vector, whole, atol=1e-5 * np.abs(whole).max()
    )


def test_batch_norm_refuses_micro_batches_unless_told() -> None:
    case = case_of("motion", 40)
    model = loaded(case, mask_of(case.model, 0.3))
    x, y = case.inputs.numpy(), case.targets.numpy()
    with pytest.raises(EngineError, match="layer 1: batch norm"):
        model.backward(x, y, micro_batch=8)
    assert np.isfinite(model.backward(x, y, micro_batch=8, ghost_norm=True))


def test_a_smaller_batch_runs_in_the_memory_of_a_larger_one() -> None:
    case = case_of("residual", 32)
    mask = mask_of(case.model, 0.5)
    model, fresh = loaded(case, mask), loaded(case, mask)
    x, y = case.inputs.numpy(), case.targets.numpy()
    model.arena_bytes(32)
    model.backward(x[:5], y[:5])
    fresh.backward(x[:5], y[:5])
    np.testing.assert_allclose(model.gradient_vector, fresh.gradient_vector, atol=1e-6)


def test_labels_out_of_range_and_odd_batches_are_refused() -> None:
    case = case_of("motion")
    model = loaded(case, Mask({}))
    x, y = case.inputs.numpy(), case.targets.numpy()
    with pytest.raises(DataError, match="out of range"):
        model.backward(x, y + 1)
    with pytest.raises(EngineError, match=r"inputs are \(21, 3, 39\)"):
        model.backward(x[:, :, 1:], y)
    with pytest.raises(EngineError, match="targets are float32, not whole"):
        model.backward(x, y.astype(np.float32))


def test_a_layer_used_twice_has_the_sum_of_its_gradients() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.head = nn.Linear(6, 6), nn.Linear(6, 5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = self.head(F.relu(self.layer(F.relu(self.layer(x)))))
            return out

    torch.manual_seed(0)
    case = Case(Twice(), torch.randn(9, 6), torch.randint(0, 5, (9,)))
    assert three_steps(case, mask_of(case.model, 0.7), "momentum") < 1e-4


def test_a_missing_operation_is_named_with_its_layer_and_line() -> None:
    class Odd(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.cummax(x, 1).values

    model = nn.Sequential(nn.Linear(4, 4), Odd())
    with pytest.raises(EngineError, match=r"layer 1: cummax.*test_whole_models.py:\d+"):
        capture(model, F.mse_loss, torch.randn(4, 4), torch.randn(4, 4))


def test_control_flow_on_values_is_an_error_and_not_a_crash(
    capsys: pytest.CaptureFixture[str],
) -> None:
    class Branch(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x if x.sum() > 0 else -x

    class Counted(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x[:, : int(x.abs().max().item()) + 1].mean(1, keepdim=True)

    why = r"cannot be exported \(test_whole_models.py:\d+\): its control flow, or"
    for model in (Branch(), Counted()):
        with pytest.raises(EngineError, match=why) as raised:
            capture(model, F.mse_loss, torch.randn(4, 4), torch.randn(4, 4))
        assert "\n" not in str(raised.value)
    assert capsys.readouterr() == ("", "")
