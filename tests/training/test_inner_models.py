"""Smaller networks on models of their own size, against the own network's way."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from coordinator.algorithms import ALGORITHMS
from coordinator.algorithms.passes import passes_of
from coordinator.algorithms.unit_masks import by_units
from edge_sdk.errors import EngineError
from edge_sdk.kernels.library import unavailable_reason
from edge_sdk.program.ceiling import MemoryCeiling
from edge_sdk.program.model import ProgramModel
from edge_sdk.sparse import Boxes, Mask, uniform
from edge_sdk.tasks.graph.units import with_units
from edge_sdk.tasks.layers import layers_of, make_model
from edge_sdk.tasks.task import Examples, Task
from edge_sdk.training.engine import TrainingModel
from edge_sdk.training.local import Backward, train
from edge_sdk.training.memory_limit import Allowance, EngineName, StepMemory
from edge_sdk.training.program_engine.models import CutModel, ProgramModels
from edge_sdk.training.rules.inner_network import InnerNetwork
from edge_sdk.training.rules.nested import one_member, sandwich
from edge_sdk.training.torch_engine.models import TorchModels
from edge_sdk.training.torch_engine.narrow import NarrowedModel
from edge_sdk.training.torch_engine.program import captured
from edge_sdk.wire.messages import MaskRecipe, Training
from edge_sdk.wire.values import Values

SEED, BATCH = 7, 8
NO_BOUND = StepMemory()
LADDER = (0.6, 0.3, 0.12)
RNG = np.random.default_rng(3)
X = RNG.normal(size=(20, 3, 8, 8)).astype(np.float32)
Y = RNG.integers(0, 4, size=20)
PLAN = Training(epochs=2, batch_size=BATCH, learning_rate=0.1, momentum=0.9, seed=3)


class Small(nn.Module):
    """A residual sum, both norms, and a linear layer on flattened maps."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.first = nn.GroupNorm(4, 16)
        self.body = nn.Conv2d(16, 16, 3, padding=1, bias=False)
        self.second = nn.BatchNorm2d(16)
        self.hidden = nn.Linear(16 * 16, 24)
        self.head = nn.Linear(24, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.first(self.stem(x)))
        x = torch.relu(x + self.second(self.body(x)))
        x = nn.functional.max_pool2d(x, 2).flatten(1)
        return self.head(torch.relu(self.hidden(x)))  # type: ignore[no-any-return]


def counts_on_its_width() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.Unflatten(1, (2, 4)), nn.Flatten(),
        nn.Linear(512, 4),
    )  # fmt: skip


def examples(_: Path = Path()) -> Examples:
    return Examples(X, Y)


def noisy(x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    return x + 0.1 * torch.randn(x.shape, generator=generator)


TASK = Task(
    name="toy", model=Small, loss=nn.functional.cross_entropy, augment=noisy,
    train_data=examples, eval_data=examples, input_shape=(3, 8, 8), batch_size=BATCH,
)  # fmt: skip


class Family:
    """The masks of a task's model, and what its devices train."""

    def __init__(self, task: Task) -> None:
        net = make_model(task, 0)
        layers = with_units(net, layers_of(net))
        self.task = task
        self.masks = by_units(uniform(layers), layers, LADDER, SEED)
        self.state = {n: t.numpy().copy() for n, t in net.state_dict().items()}

    def start(self, mask: Mask) -> Values:
        masked = {n: self.state[n][mask[n]] for n in mask}
        dense = {n: a for n, a in self.state.items() if n not in mask.layers}
        return Values(mask.digest, masked, dense)

    def inside(self, density: float) -> list[tuple[Mask, Boxes]]:
        return [
            (mask, self.masks.boxes.get(d, {}))
            for d, mask in self.masks.masks.items()
            if d < density
        ]

    def models(self, engine: EngineName, memory: StepMemory = NO_BOUND) -> TorchModels:
        models = TorchModels(self.task, engine, "fp32", memory)
        if engine == "program":
            models.program = self.file
        return models

    @cached_property
    def file(self) -> bytes:
        batch = torch.from_numpy(X[:BATCH]), torch.from_numpy(Y[:BATCH])
        return captured(make_model(self.task, 0), self.task.loss, batch)

    def board(self) -> ProgramModels:
        """What a board without torch has."""
        models = ProgramModels(self.task, "auto", 1)
        models.program = self.file
        return models

    def own(self, models: TorchModels | ProgramModels, density: float) -> TrainingModel:
        mask = self.masks.masks[density]
        recipe: MaskRecipe = self.masks.recipe(mask)
        drawn = models.mask(recipe, b"")
        model = models.on(drawn, examples(), Allowance(), BATCH)
        start = self.start(mask)
        model.load(start.masked, start.dense)
        return model

    def trained(
        self, engine: EngineName, density: float, *, own_size: bool, rule: str
    ) -> dict[str, NDArray[np.float32]]:
        """Every entry after training on the top mask or a middle one."""
        return self.steps(self.models(engine), density, own_size=own_size, rule=rule)

    def steps(
        self,
        models: TorchModels | ProgramModels,
        density: float,
        *,
        own_size: bool,
        rule: str,
    ) -> dict[str, NDArray[np.float32]]:
        """Every entry after training on these models."""
        model, mask = self.own(models, density), self.masks.masks[density]
        given = self.inside(density)
        found = models.inside(given, examples()) if own_size else [None] * len(given)
        if own_size:
            assert all(one is not None for one in found)
        members = [
            InnerNetwork(m, mask, x) for (m, _), x in zip(given, found, strict=True)
        ]
        for member in members:
            member.load(self.start(mask))
        way: Backward = partial(sandwich, members)
        if rule == "nested":
            way = partial(one_member, 0.6, members, PLAN.seed)
        train(model, self.task, examples(), PLAN, backward=way)
        return {**model.values(), **model.dense()}


@pytest.fixture(scope="module")
def family() -> Family:
    return Family(TASK)


@pytest.mark.parametrize("density", LADDER[:2])
@pytest.mark.parametrize("rule", ["sandwich", "nested"])
@pytest.mark.parametrize("engine", ["program", "masked"])
def test_steps_are_those_of_the_own_network_with_the_others_at_zero(
    family: Family, engine: EngineName, rule: str, density: float
) -> None:
    """Augmentation, momentum, batch norm's statistics and a lone last batch too."""
    if engine == "program" and (reason := unavailable_reason()):
        pytest.skip(reason)
    given = engine, density
    found = family.trained(*given, own_size=True, rule=rule)
    expected = family.trained(*given, own_size=False, rule=rule)
    start = family.start(family.masks.masks[density])
    for name, value in expected.items():
        assert np.allclose(found[name], value, atol=1e-4), name
    moved = {**start.masked, **start.dense}
    assert any(np.abs(expected[n] - moved[n]).max() > 1e-2 for n in moved)


def test_programs_of_members_have_fewer_weights_and_activations(family: Family) -> None:
    if reason := unavailable_reason():
        pytest.skip(reason)
    models = family.models("program")
    family.own(models, LADDER[0])
    inner = models.inside(family.inside(LADDER[0]), examples())
    whole = models._model
    assert isinstance(whole, ProgramModel)
    sizes = [whole.arena_bytes(BATCH)]
    for model in inner:
        assert isinstance(model, ProgramModel)
        sizes.append(model.arena_bytes(BATCH))
        assert model.mask.nnz < whole.mask.nnz
    assert sizes[1] < 0.85 * sizes[0]
    assert sizes[2] < 0.65 * sizes[0]
    assert models.inside(family.inside(LADDER[0]), examples()) == inner  # kept


def boards_task() -> Family:
    """Arrays are augmented by no torch."""
    return Family(replace(TASK, augment=None))


@pytest.mark.parametrize("rule", ["sandwich", "nested"])
def test_a_board_without_torch_steps_on_programs_of_the_members_widths(
    rule: str,
) -> None:
    """Under the top mask, which is whole, and under one that cuts units itself."""
    if reason := unavailable_reason():
        pytest.skip(reason)
    family = boards_task()
    for density in LADDER[:2]:
        found = family.steps(family.board(), density, own_size=True, rule=rule)
        expected = family.steps(family.board(), density, own_size=False, rule=rule)
        torchs = family.trained("program", density, own_size=True, rule=rule)
        for name, value in expected.items():
            assert np.allclose(found[name], value, atol=1e-4), name
            assert np.allclose(found[name], torchs[name], atol=1e-4), name


def test_a_board_without_torch_has_members_as_narrow_as_predicted() -> None:
    if reason := unavailable_reason():
        pytest.skip(reason)
    family = boards_task()
    predicted = passes_of(ALGORITHMS["flash-edge"], LADDER)
    for density in LADDER[:2]:
        models = family.board()
        own = family.own(models, density)
        assert isinstance(own, ProgramModel)
        assert isinstance(own, CutModel) == (density < LADDER[0])
        passes, programs = predicted[density], [own]
        for model in models.inside(family.inside(density), examples()):
            assert isinstance(model, ProgramModel)
            programs.append(model)
        assert len(programs) == len(passes)
        shapes = [{p.name: p.shape for p in x.program.parameters} for x in programs]
        for said, has in zip(passes, shapes, strict=True):
            assert has["body.weight"][0] / 16 == pytest.approx(said.width, abs=1 / 16)
        sizes = [x.arena_bytes(BATCH) for x in programs]
        assert sizes == sorted(set(sizes), reverse=True)


def test_a_board_without_torch_whose_model_counts_on_its_width_saves_weights() -> None:
    if reason := unavailable_reason():
        pytest.skip(reason)
    family = Family(replace(TASK, model=counts_on_its_width, augment=None))
    models = family.board()
    own = family.own(models, LADDER[0])
    for (mask, _), inner in zip(
        family.inside(LADDER[0]),
        models.inside(family.inside(LADDER[0]), examples()),
        strict=True,
    ):
        assert isinstance(inner, ProgramModel)
        assert inner.mask is mask
        assert {n: a.shape for n, a in inner.dense().items()} == {
            n: a.shape for n, a in own.dense().items()
        }


def test_models_of_members_end_with_the_own_one(family: Family) -> None:
    models = family.models("masked")
    family.own(models, LADDER[0])
    before = models.inside(family.inside(LADDER[1]), examples())
    family.own(models, LADDER[1])
    assert isinstance(models._model, NarrowedModel)
    after = models.inside(family.inside(LADDER[1]), examples())
    assert after[0] is not before[0]


def test_members_leave_random_numbers_alone(family: Family) -> None:
    models = family.models("masked")
    family.own(models, LADDER[0])
    before = torch.get_rng_state()
    models.inside(family.inside(LADDER[0]), examples())
    assert torch.equal(torch.get_rng_state(), before)


def test_a_member_that_memory_does_not_hold_takes_the_own_networks_time(
    family: Family, caplog: pytest.LogCaptureFixture
) -> None:
    if reason := unavailable_reason():
        pytest.skip(reason)
    bound = [1 << 40]
    memory = StepMemory(lambda: MemoryCeiling(bound[0], 0))
    models = family.models("program", memory)
    family.own(models, LADDER[0])
    alone = models._model
    assert isinstance(alone, ProgramModel)
    bound[0] = alone.step_plan(BATCH).nbytes + 1000  # the own one, and little more
    with caplog.at_level("INFO"):
        models = family.models("program", memory)
        family.own(models, LADDER[0])
        found = models.inside(family.inside(LADDER[0]), examples())
    assert None in found
    assert "takes the time of the own" in caplog.text
    bound[0] = 1 << 40
    with caplog.at_level("INFO"):
        models = family.models("program", memory)
        family.own(models, LADDER[0])
        assert None not in models.inside(family.inside(LADDER[0]), examples())
    assert "memory plan of the network of density" in caplog.text


def test_a_model_that_counts_on_its_width_is_only_sparser() -> None:
    """torch would compute it densely all the same: it has no model of its own."""
    task = replace(TASK, model=counts_on_its_width, augment=None)
    family = Family(task)
    models = family.models("masked")
    family.own(models, LADDER[0])
    assert models.inside(family.inside(LADDER[0]), examples()) == [None, None]


def test_another_engines_model_is_not_beside_a_program(family: Family) -> None:
    if reason := unavailable_reason():
        pytest.skip(reason)
    program = family.own(family.models("program"), LADDER[0])
    masked = family.own(family.models("masked"), LADDER[0])
    session = program.session(TASK, examples(), PLAN)
    with pytest.raises(EngineError, match="not beside a program"):
        session.beside(masked)
