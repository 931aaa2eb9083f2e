"""Power-propagation and bounded gradients, against autograd and on both engines."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET, structs
from patience import patience
from program_models import on_program
from torch import nn

from edge_sdk.sparse import draw, exact_counts, uniform
from edge_sdk.tasks.batch import tensors
from edge_sdk.tasks.layers import initial_state, layers_of
from edge_sdk.tasks.task import Examples, load_task
from edge_sdk.training.engine import TrainingModel
from edge_sdk.training.local import train
from edge_sdk.training.masked import masked_model
from edge_sdk.training.sgd import Sgd
from edge_sdk.training.step import sgd, take_step
from edge_sdk.training.torch_engine.program import captured
from edge_sdk.wire.messages import Training

PLAN = Training(epochs=2, batch_size=8, learning_rate=0.1, seed=4)
powers = st.floats(1.01, 4.0)


def leaves(seed: int) -> list[nn.Parameter]:
    """Three vectors, as a model's kept values and its biases might be."""
    rng = np.random.default_rng(seed)
    return [nn.Parameter(torch.from_numpy(rng.normal(size=n))) for n in (7, 5, 3)]


def loss_of(weights: Sequence[torch.Tensor], seed: int) -> torch.Tensor:
    """Some smooth function in which every entry has a part, another in each step."""
    flat, rng = torch.cat(list(weights)), np.random.default_rng(seed)
    mixed = torch.from_numpy(rng.normal(size=(9, len(flat)))) @ flat
    return (mixed.tanh() + 0.1 * mixed**2).mean()


class Leaves(nn.Module):
    """Parameters in a row, as `sgd` takes them."""

    def __init__(self, parameters: Sequence[nn.Parameter]) -> None:
        super().__init__()
        self.own = nn.ParameterList(parameters)


@given(
    powers,
    st.floats(0, 0.95),
    st.floats(0, 0.1),
    st.sampled_from([UNSET, 0.05, 1.0]),
    st.integers(0, 99),
)
def test_a_power_is_autograd_through_the_reparametrisation(
    power: float, momentum: float, decay: float, clip: float, seed: int
) -> None:
    """In float64: SGD on theta where w = theta * abs(theta) ** (power - 1)."""
    plan = structs.replace(
        PLAN, momentum=momentum, weight_decay=decay, power=power, clip=clip
    )
    ours, theirs = leaves(seed), leaves(seed)
    with torch.no_grad():
        for theta in theirs[:2]:
            theta.copy_(theta.sign() * theta.abs() ** (1 / power))
    first, second = sgd(Leaves(ours), plan), sgd(Leaves(theirs), plan)
    for step in range(5):
        first.zero_grad()
        loss_of(ours, step).backward()
        take_step(first, plan, ours[:2])
        second.zero_grad()
        weights = [t * t.abs() ** (power - 1) for t in theirs[:2]]
        loss_of([*weights, theirs[2]], step).backward()
        if clip:
            nn.utils.clip_grad_norm_(theirs, clip)
        second.step()
    wanted = [(t * t.abs() ** (power - 1)).detach() for t in theirs[:2]]
    for got, want in zip(ours, [*wanted, theirs[2].detach()], strict=True):
        torch.testing.assert_close(got.detach(), want, rtol=1e-9, atol=1e-12)


@given(st.integers(0, 99), st.sampled_from([torch.float32, torch.float64]))
def test_the_power_one_is_the_plain_step_bit_for_bit(
    seed: int, dtype: torch.dtype
) -> None:
    plan = structs.replace(PLAN, momentum=0.9, power=1.0)
    runs = []
    for kept in (slice(0, 2), slice(0, 0)):
        own = [nn.Parameter(p.detach().to(dtype)) for p in leaves(seed)]
        optimizer = sgd(Leaves(own), plan)
        for step in range(4):
            optimizer.zero_grad()
            loss_of([p.double() for p in own], step).backward()
            take_step(optimizer, plan, own[kept])
        runs.append([p.detach().numpy().tobytes() for p in own])
    assert runs[0] == runs[1]


def test_a_weight_of_zero_stays_and_one_that_is_not_used_does_too() -> None:
    plan = structs.replace(PLAN, power=2.0)
    zero, idle = nn.Parameter(torch.tensor([0.0, 0.5])), nn.Parameter(torch.ones(3) / 3)
    before = idle.detach().clone()
    optimizer = sgd(Leaves([zero, idle]), plan)
    zero.sum().backward()
    take_step(optimizer, plan, [zero, idle])
    assert zero[0] == 0
    assert 0 < zero[1] < 0.5
    assert torch.equal(idle, before)


@given(st.floats(1e-3, 10), st.integers(0, 99))
def test_no_step_is_longer_than_its_bound(clip: float, seed: int) -> None:
    plan = structs.replace(PLAN, clip=clip)
    own = leaves(seed)
    before = torch.cat([p.detach().clone() for p in own])
    optimizer = sgd(Leaves(own), plan)
    (1e3 * loss_of(own, 0)).backward()
    take_step(optimizer, plan)
    moved = torch.linalg.vector_norm(torch.cat([p.detach() for p in own]) - before)
    assert moved <= plan.learning_rate * clip * (1 + 1e-6)


@given(
    st.sampled_from([0.0, 0.5, 0.9]),
    st.sampled_from([0.0, 1e-4, 0.1]),
    st.integers(0, 99),
)
def test_our_sgd_is_torchs_bit_for_bit(
    momentum: float, decay: float, seed: int
) -> None:
    runs = []
    for make in (
        lambda own: Sgd(own, rate=0.07, momentum=momentum, decay=decay),
        lambda own: torch.optim.SGD(own, 0.07, momentum, weight_decay=decay),
    ):
        own = [nn.Parameter(p.detach().float()) for p in leaves(seed)]
        idle = nn.Parameter(torch.ones(3))
        optimizer = make([*own, idle])
        for step in range(5):
            optimizer.zero_grad()
            loss_of([p.double() for p in own], step).backward()
            optimizer.step()
        runs.append([p.detach().numpy().tobytes() for p in (*own, idle)])
    assert runs[0] == runs[1]


TRAINS = """
import sys
import numpy as np
import torch
from edge_sdk.tasks.layers import layers_of
from edge_sdk.tasks.task import Examples, load_task
from edge_sdk.sparse import draw, exact_counts, uniform
from edge_sdk.training.local import train
from edge_sdk.training.masked import masked_model
from edge_sdk.training.torch_engine.program import program_model
from edge_sdk.wire.messages import Training
task = load_task("digits")
layers = layers_of(task.model(), task.dense_layers)
mask = draw(layers, exact_counts(uniform(layers), layers, 0.2), 5)
examples = Examples(np.zeros((8, 1, 8, 8), np.uint8), np.zeros(8, np.int64))
plan = Training(epochs=1, batch_size=4, learning_rate=0.1, momentum=0.9)
file = open(sys.argv[1], "rb").read()
own = program_model(task.model(), mask, file, torch.zeros(1), reason="test")
for model in (masked_model(task.model(), mask), own):
    train(model, task, examples, plan)
sys.exit("torch._dynamo" in sys.modules)
"""


def test_training_a_task_does_not_import_torchs_compiler(tmp_path: Path) -> None:
    """68 MiB of a board, and seconds of its start, for nothing."""
    few = tensors(TASK, EXAMPLES, slice(0, 8))
    (tmp_path / "program").write_bytes(captured(TASK.model(), TASK.loss, few))
    subprocess.run(
        [sys.executable, "-c", TRAINS, str(tmp_path / "program")],
        check=True,
        timeout=patience(120),
    )


# -- both engines ----------------------------------------------------------------------

TASK = load_task("digits")
LAYERS = layers_of(TASK.model(), TASK.dense_layers)
MASK = draw(LAYERS, exact_counts(uniform(LAYERS), LAYERS, 0.2), 5)
RNG = np.random.default_rng(2)
EXAMPLES = Examples(
    RNG.integers(0, 17, (40, 1, 8, 8)).astype(np.uint8), RNG.integers(0, 10, 40)
)


def trained(engine: str, plan: Training) -> TrainingModel:
    few = tensors(TASK, EXAMPLES, slice(0, 8))
    model: TrainingModel = (
        on_program(TASK.model(), MASK, *few)
        if engine == "program"
        else masked_model(TASK.model(), MASK)
    )
    state = initial_state(TASK, 1)
    model.load({n: state.pop(n)[MASK[n]] for n in MASK}, state)
    train(model, TASK, EXAMPLES, plan)
    return model


def whole(model: TrainingModel) -> dict[str, np.ndarray]:
    return {n: a.reshape(-1) for n, a in {**model.values(), **model.dense()}.items()}


def test_both_engines_train_a_power_alike_and_otherwise_than_plain() -> None:
    plan = structs.replace(PLAN, momentum=0.9, power=2.0)
    one, two = whole(trained("program", plan)), whole(trained("masked", plan))
    plain = whole(trained("masked", structs.replace(plan, power=UNSET)))
    for name in MASK:
        np.testing.assert_allclose(one[name], two[name], rtol=1e-3, atol=1e-5)
        assert np.abs(two[name] - plain[name]).max() > 1e-3


def test_kept_parameters_are_those_of_the_mask() -> None:
    model = masked_model(TASK.model(), MASK)
    sizes = [p.numel() for p in model.kept()]
    assert sizes == [MASK.counts[n] for n in MASK]
    every = {id(p) for p in model.parameters()}
    assert {id(p) for p in model.kept()} < every
