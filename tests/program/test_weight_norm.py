"""Weight-normed layers: sparse by their direction, in programs and by torch alike."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from beside_torch import Case, loaded, mask_of, relative_error, three_steps
from plain_models import classes
from torch import nn

import coordinator
from edge_sdk.program.capture import capture
from edge_sdk.program.open import program_layers
from edge_sdk.sparse import Mask
from edge_sdk.tasks.cost import weight_uses
from edge_sdk.tasks.layers import layers_of
from edge_sdk.tasks.task import Examples, Task
from edge_sdk.torch_modules.copying import copy_model
from edge_sdk.training.masked import masked_model

pytestmark = pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
Norm = Callable[..., Any]
NORMS: dict[str, Norm] = {
    "now": nn.utils.parametrizations.weight_norm,
    "before": nn.utils.weight_norm,
}


def temporal(norm: Norm) -> nn.Module:
    return nn.Sequential(
        nn.ConstantPad1d((4, 0), 0.0),
        norm(nn.Conv1d(3, 6, 3, dilation=2)),
        nn.ReLU(),
        norm(nn.Conv1d(6, 8, 3, groups=2, bias=False)),
        nn.Tanh(),
        nn.AdaptiveAvgPool1d(1),
        nn.Flatten(),
        norm(nn.Linear(8, 4)),
    )


def images(norm: Norm) -> nn.Module:
    return nn.Sequential(
        norm(nn.Conv2d(3, 6, 3, padding=1)),
        nn.Tanh(),
        norm(nn.Conv2d(6, 6, 3, groups=6)),
        norm(nn.ConvTranspose2d(6, 4, 4, 2, 1, groups=2)),
        nn.Tanh(),
        nn.Flatten(),
        norm(nn.Linear(4 * 64, 4), dim=None),
    )


def upwards(norm: Norm) -> nn.Module:
    return nn.Sequential(
        norm(nn.ConvTranspose1d(3, 6, 4, 2, 1)),
        nn.Tanh(),
        norm(nn.ConvTranspose1d(6, 4, 3, bias=False), dim=1),
        nn.AdaptiveMaxPool1d(1),
        nn.Flatten(),
    )


def frames(norm: Norm) -> nn.Module:
    return nn.Sequential(
        norm(nn.Conv3d(2, 4, (2, 3, 3), padding=1)),
        nn.Tanh(),
        nn.AdaptiveAvgPool3d(1),
        nn.Flatten(),
    )


SHAPES: dict[Callable[[Norm], nn.Module], tuple[int, ...]] = {
    temporal: (3, 11),
    images: (3, 6, 6),
    upwards: (3, 5),
    frames: (2, 3, 5, 5),
}


def case_of(make: Callable[[Norm], nn.Module], norm: str) -> tuple[Case, Mask]:
    torch.manual_seed(3)
    case = classes(make(NORMS[norm]), *SHAPES[make])
    names = {layer.name for layer in layers_of(case.model)}
    patterns = mask_of(case.model, 0.5)
    return case, Mask({n: patterns[n] for n in patterns if n in names})


def cut(mask: Mask) -> Mask:
    """The mask without the second of what the first axis of each weight counts."""
    found = {}
    for name in mask:
        pattern = mask[name].copy()
        pattern[1] = False
        found[name] = pattern
    return Mask(found)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("make", SHAPES)
def test_a_weight_normed_layer_trains_as_torch_does_and_stays_sparse(
    make: Callable[[Norm], nn.Module], norm: str
) -> None:
    case, mask = case_of(make, norm)
    program = capture(case.model, case.loss, case.inputs, case.targets)
    found = {layer.name: layer for layer in program_layers(program)}
    assert all(found[s.name].groups == s.groups for s in layers_of(case.model))
    names = [operation.name for operation in program.training.operations]
    assert "product" not in names
    normed = [n for n in mask if n.endswith(("original1", "weight_v"))]
    assert names.count("lengths") == len(normed) > 0
    assert three_steps(case, mask, "momentum") < 1e-4


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("make", SHAPES)
def test_a_part_that_the_mask_cuts_whole_is_zero_in_both_engines(
    make: Callable[[Norm], nn.Module], norm: str
) -> None:
    case, mask = case_of(make, norm)
    mask = cut(mask)
    theirs = masked_model(copy_model(case.model), mask)
    ours = loaded(case, mask)
    ours.backward(case.inputs.numpy(), case.targets.numpy())
    case.loss(theirs(case.inputs), case.targets).backward()
    for name, parameter in theirs.named_parameters():
        assert parameter.grad is not None
        wanted, own = parameter.grad.numpy(), ours.gradients[name]
        assert np.isfinite(own).all()
        if np.abs(wanted).max(initial=0.0) > 1e-6:
            assert relative_error(own.reshape(wanted.shape), wanted) < 1e-4, name


def test_its_bits_do_not_depend_on_threads_and_parts_round_alike() -> None:
    case, mask = case_of(temporal, "now")
    models = [loaded(case, mask, threads=threads) for threads in (1, 2, 4)]
    for model in models:
        model.backward(case.inputs.numpy(), case.targets.numpy())
    assert len({m.gradient_vector.tobytes() for m in models}) == 1
    model = models[0]
    whole = model.gradient_vector.copy()
    model.backward(case.inputs.numpy(), case.targets.numpy(), micro_batch=3)
    assert relative_error(model.gradient_vector, whole) < 1e-5


class Beside(nn.Module):
    """Its weight is read beside its layer, too."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = NORMS["now"](nn.Linear(5, 4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weight: torch.Tensor = self.layer.weight
        out: torch.Tensor = self.layer(x)
        return out + (x * weight[0]).sum(1, keepdim=True)


def test_a_weight_that_is_read_beside_its_layer_has_both_gradients() -> None:
    torch.manual_seed(0)
    case = classes(Beside(), 5)
    mask = mask_of(case.model, 0.8)
    patterns = {n: mask[n] for n in mask if n.endswith("original1")}
    assert three_steps(case, Mask(patterns), "adam") < 1e-4


def blobs(seed: int) -> Examples:
    rng = np.random.default_rng(seed)
    kinds = rng.integers(0, 4, 24)
    waves = np.sin(np.arange(16) * (1 + kinds[:, None]) / 3)
    noise = rng.normal(0, 0.2, (24, 3, 16))
    return Examples((waves[:, None] + noise).astype(np.float32), kinds)


def test_moving_masks_train_it_in_a_federation_and_its_cost_is_counted() -> None:
    task = Task(
        name="waves",
        model=lambda: temporal(NORMS["now"]),
        loss=F.cross_entropy,
        input_shape=(3, 16),
    )
    uses = weight_uses(task)
    assert uses["1.parametrizations.weight.original1"] == 16
    assert uses["7.parametrizations.weight.original1"] == 1
    models = []
    for engine in ("program", "masked"):
        run = coordinator.simulate(
            task,
            devices=[blobs(0), blobs(1)],
            evaluation=blobs(2),
            algorithm="feddst",
            rounds=2,
            densities=[0.4],
            engine=engine,
        )
        assert np.isfinite(run.history["loss@0.4"][1:]).all()
        models.append(run.model(0.4).state_dict())
    assert list(models[0]) == list(models[1])
    direction = models[0]["3.parametrizations.weight.original1"]
    assert 0 < int((direction != 0).sum()) < direction.numel()
