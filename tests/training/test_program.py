"""The training program as a device's engine, beside torch's engines."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from msgspec import structs
from torch import nn
from torch.distributions import Beta, Dirichlet, Distribution, Gamma

from edge_sdk.program.capture import compiled
from edge_sdk.program.open import open_program, program_layers
from edge_sdk.sparse import LayerShape, Mask, draw, exact_counts, uniform
from edge_sdk.tasks.batch import tensors
from edge_sdk.tasks.layers import initial_state, layers_of
from edge_sdk.tasks.task import Examples, Task, load_task
from edge_sdk.training.checkpoint import Progress
from edge_sdk.training.engine import TrainingModel
from edge_sdk.training.local import Stopped, train
from edge_sdk.training.masked import masked_model
from edge_sdk.training.memory_limit import Allowance
from edge_sdk.training.torch_engine.models import TorchModels
from edge_sdk.wire.messages import Training

TASK = load_task("digits")
LAYERS = layers_of(TASK.model(), TASK.dense_layers)
MASK = draw(LAYERS, exact_counts(uniform(LAYERS), LAYERS, 0.2), 5)
RNG = np.random.default_rng(2)
EXAMPLES = Examples(
    RNG.integers(0, 17, (40, 1, 8, 8)).astype(np.uint8), RNG.integers(0, 10, 40)
)
Draw = Callable[[nn.Module, torch.Tensor], torch.Tensor]
PLAN = Training(epochs=2, batch_size=16, learning_rate=0.05, momentum=0.9, seed=3)


@pytest.fixture(scope="module")
def file() -> bytes:
    found = compiled(TASK.model(), TASK.loss, *tensors(TASK, EXAMPLES, slice(0, 12)))
    assert found.file, found.reason
    return found.file


def on(file: bytes, engine: str = "program", task: Task = TASK) -> TrainingModel:
    source = TorchModels(task, engine, "fp32")  # type: ignore[arg-type]
    source.program = file
    mask = MASK if task is TASK else Mask({})
    return source.on(mask, EXAMPLES, Allowance(), 16)


def start(model: TrainingModel) -> TrainingModel:
    state = initial_state(TASK, 1)
    model.load({n: state.pop(n)[MASK[n]] for n in MASK}, state)
    return model


def whole(model: TrainingModel) -> np.ndarray:
    parts = {**model.values(), **model.dense()}
    return np.concatenate([parts[n].ravel().astype(np.float64) for n in sorted(parts)])


@pytest.mark.parametrize(
    "plan",
    [
        PLAN,
        structs.replace(PLAN, weight_decay=1e-2, clip=0.5),
        structs.replace(PLAN, power=2.0),
    ],
    ids=["plain", "decay and clip", "power"],
)
def test_a_task_ends_as_on_torch_s_engine(file: bytes, plan: Training) -> None:
    ours, theirs = start(on(file)), start(masked_model(TASK.model(), MASK))
    assert ours.engine == "program"
    before = whole(ours)
    results = [train(m, TASK, EXAMPLES, plan) for m in (ours, theirs)]
    assert results[0].loss == pytest.approx(results[1].loss, rel=1e-4)
    moved = np.linalg.norm(whole(theirs) - before)
    assert np.linalg.norm(whole(ours) - whole(theirs)) < 1e-3 * moved


def test_a_restart_goes_on_to_the_same_bits(file: bytes, tmp_path: Path) -> None:
    undisturbed = start(on(file))
    train(undisturbed, TASK, EXAMPLES, PLAN)
    place, left = Progress(tmp_path, every_s=0), [3]

    def stop() -> bool:
        left[0] -= 1
        return left[0] < 0

    with pytest.raises(Stopped):
        train(start(on(file)), TASK, EXAMPLES, PLAN, stop=stop,
              progress=place.of("t", "program"))  # fmt: skip
    resumed = start(on(file))
    train(resumed, TASK, EXAMPLES, PLAN, progress=place.of("t", "program"))
    assert whole(resumed).tobytes() == whole(undisturbed).tobytes()


def added(draw: Callable[[torch.Tensor], torch.Tensor]) -> Draw:
    """A small share of what is drawn is added, in training alone."""
    return lambda m, x: x + 0.1 * draw(x.detach()) if m.training else x


def mixed(m: nn.Module, x: torch.Tensor) -> torch.Tensor:
    return 0.7 * x + 0.3 * x[torch.randperm(len(x))] if m.training else x


def sample(make: Callable[[torch.Tensor], Distribution]) -> Draw:
    return added(lambda x: make(torch.full_like(x, 1.5)).sample())


DRAWS: dict[str, Draw] = {
    "dropout": lambda m, x: F.dropout(x, 0.5, training=m.training),
    "normal": added(torch.randn_like),
    "gamma": sample(lambda a: Gamma(a, a)),
    "beta": sample(lambda a: Beta(a, a)),
    "dirichlet": sample(Dirichlet),
    "whole numbers": added(lambda x: torch.randint(0, 5, x.shape).float()),
    "shared noise": added(lambda x: torch.randn(1, x.shape[1])),
    "shared dropout": added(lambda x: F.dropout(torch.ones(1, x.shape[1]))),
    "mixup": mixed,
}


class Drawing(nn.Module):
    """A network that draws between its two layers."""

    def __init__(self, draw: Draw) -> None:
        super().__init__()
        self.draw, self.one, self.two = draw, nn.Linear(64, 32), nn.Linear(32, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.two(self.draw(self, self.one(x.flatten(1))))
        return found


@pytest.mark.parametrize("name", DRAWS)
def test_what_is_drawn_goes_on_to_the_same_bits_too(name: str, tmp_path: Path) -> None:
    def model() -> nn.Module:
        torch.manual_seed(4)
        return Drawing(DRAWS[name])

    task = replace(TASK, name="dropping", model=model, dense_layers=frozenset())
    made = compiled(model(), task.loss, *tensors(task, EXAMPLES, slice(0, 12)))
    state = {n: t.numpy() for n, t in model().state_dict().items()}
    undisturbed, left = on(made.file, task=task), [3]

    def stop() -> bool:
        left[0] -= 1
        return left[0] < 0

    undisturbed.load({}, state)
    train(undisturbed, task, EXAMPLES, PLAN)
    otherwise = on(made.file, task=task)
    otherwise.load({}, state)
    train(otherwise, task, EXAMPLES, structs.replace(PLAN, seed=PLAN.seed + 1))
    assert whole(otherwise).tobytes() != whole(undisturbed).tobytes()
    own, place = on(made.file, task=task), Progress(tmp_path, every_s=0)
    own.load({}, state)
    with pytest.raises(Stopped):
        train(own, task, EXAMPLES, PLAN, stop=stop, progress=place.of("t", "program"))
    resumed = on(made.file, task=task)
    resumed.load({}, state)
    train(resumed, task, EXAMPLES, PLAN, progress=place.of("t", "program"))
    assert whole(resumed).tobytes() == whole(undisturbed).tobytes()


def test_auto_takes_part_in_a_race_with_a_program_at_hand(file: bytes) -> None:
    model = on(file, "auto")
    assert model.engine in {"program", "masked"}
    if model.engine == "program":
        assert "ms a step against" in model.reason


def test_a_program_that_comes_later_is_raced_then(file: bytes) -> None:
    source = TorchModels(TASK, "auto", "fp32")
    assert source.engines == ("program", "masked")
    first = source.on(MASK, EXAMPLES, Allowance(), 16)
    assert first.engine != "program"
    assert source.on(MASK, EXAMPLES, Allowance(), 16) is first
    source.program = file
    second = source.on(MASK, EXAMPLES, Allowance(), 16)
    assert second is not first
    assert source.on(MASK, EXAMPLES, Allowance(), 16) is second


def test_without_a_program_torch_trains_and_one_line_says_why(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(64, 10)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            found: torch.Tensor = torch.cummax(self.layer(x.flatten(1)), 1).values
            return found

    odd = Task(
        name="odd", model=Odd, loss=F.cross_entropy, input_shape=(1, 8, 8),
        prepare=lambda x: x.float(),
    )  # fmt: skip
    with caplog.at_level(logging.WARNING):
        assert on(b"", "program", odd).engine == "masked"
    (line,) = [r.getMessage() for r in caplog.records if "no program" in r.getMessage()]
    assert "cummax" in line
    assert "test_program.py:" in line


def test_a_damaged_program_is_refused_and_torch_trains(
    file: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    damaged = file[:-20] + bytes(20)
    with caplog.at_level(logging.WARNING):
        assert on(damaged).engine != "program"
    assert "it is damaged" in caplog.text


def test_a_program_knows_its_maskable_layers(file: bytes) -> None:
    program = open_program(file, Mask({})).program
    found = {layer.name: layer for layer in program_layers(program)}
    assert all(found[own.name] == LayerShape(own.name, own.shape) for own in LAYERS)
