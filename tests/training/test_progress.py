"""A training that is cut off goes on, and nobody can tell from its update."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from msgspec import structs
from torch import nn

from edge_sdk.sparse import Mask
from edge_sdk.tasks.task import Examples, Task
from edge_sdk.training.checkpoint import Progress, TaskProgress
from edge_sdk.training.engine import TrainingModel
from edge_sdk.training.local import Stopped, train
from edge_sdk.training.masked import masked_model
from edge_sdk.training.torch_engine.randomness import Draws
from edge_sdk.wire.messages import Training

PLAN = Training(epochs=3, batch_size=8, learning_rate=0.1, momentum=0.9, seed=5)
RNG = np.random.default_rng(1)
EXAMPLES = Examples(
    RNG.integers(0, 255, (40, 1, 6, 6), np.uint8), RNG.integers(0, 3, 40)
)
MASK = Mask({"3.weight": np.random.default_rng(2).random((3, 64)) < 0.3})


def module() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3),
        nn.BatchNorm2d(4),
        nn.Flatten(),
        nn.Linear(64, 3),
        nn.Dropout(0.2),
    )


def jitter(inputs: torch.Tensor, noise: torch.Generator) -> torch.Tensor:
    return inputs + 0.1 * torch.randn(inputs.shape, generator=noise)


TASK = Task(
    name="t",
    model=module,
    loss=nn.functional.cross_entropy,
    train_data=lambda _: EXAMPLES,
    eval_data=lambda _: EXAMPLES,
    input_shape=(1, 6, 6),
    prepare=lambda raw: raw.float() / 255,
    augment=jitter,
)


def trained(
    progress: TaskProgress | None, steps: int = 1000, plan: Training = PLAN
) -> dict[str, bytes]:
    """The model's bytes after training, cut off after so many steps of this life."""
    model = masked_model(module(), MASK)
    left = iter(range(steps))
    torch.seed()  # what the process drew before is nobody's business
    train(
        model,
        TASK,
        EXAMPLES,
        plan,
        stop=lambda: next(left, None) is None,
        progress=progress,
    )
    return content(model)


def content(model: TrainingModel) -> dict[str, bytes]:
    return {n: a.tobytes() for n, a in (model.values() | model.dense()).items()}


def test_dropout_draws_by_the_plans_seed_alone() -> None:
    whole = trained(None)
    assert trained(None) == whole
    assert trained(None, plan=structs.replace(PLAN, seed=6)) != whole


def test_each_batch_draws_other_numbers_and_the_process_none() -> None:
    draws, drawn = Draws(5), []
    state = torch.get_rng_state()
    for _ in range(3):
        with draws.batch():
            drawn.append(torch.rand(4).tolist())
    assert torch.equal(torch.get_rng_state(), state)
    assert len({tuple(numbers) for numbers in drawn}) == 3
    later = Draws(5)
    later.put_back(np.array([2]))
    with later.batch():
        assert torch.rand(4).tolist() == drawn[2]
    assert later.state().tolist() == [3]


def test_two_trainings_of_one_process_do_not_draw_from_each_other() -> None:
    whole = trained(None)
    models = [masked_model(module(), MASK) for _ in range(3)]
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda model: train(model, TASK, EXAMPLES, PLAN), models))
    assert [content(model) for model in models] == [whole] * 3


POWERED = structs.replace(PLAN, power=1.5, clip=1.0)  # theta is in no checkpoint


@pytest.mark.parametrize("plan", [PLAN, POWERED], ids=["plain", "powered"])
@pytest.mark.parametrize("first", [1, 4, 5, 14])
def test_a_training_cut_off_twice_gives_the_same_bytes(
    tmp_path: Path, first: int, plan: Training
) -> None:
    whole = trained(None, plan=plan)
    place = Progress(tmp_path, every_s=0.0)
    for steps in (first, 1):
        if first + steps <= 15:
            with pytest.raises(Stopped):
                trained(place.of("1-a", "masked"), steps, plan)
    assert trained(place.of("1-a", "masked"), plan=plan) == whole


def test_another_tasks_checkpoint_and_a_damaged_one_are_thrown_away(
    tmp_path: Path,
) -> None:
    whole = trained(None)
    place = Progress(tmp_path, every_s=0.0)
    for spoil in (lambda: None, lambda: place.path.write_bytes(b"half a file")):
        with pytest.raises(Stopped):
            trained(place.of("1-a", "masked"), 4)
        spoil()
        assert trained(place.of("2-b", "masked")) == whole


def test_one_flipped_bit_of_its_checkpoint_starts_the_task_over(tmp_path: Path) -> None:
    whole = trained(None)
    place = Progress(tmp_path, every_s=0.0)
    for back in (1, 40, 300):
        with pytest.raises(Stopped):
            trained(place.of("1-a", "masked"), 4)
        content = bytearray(place.path.read_bytes())
        content[-back] ^= 64
        place.path.write_bytes(content)
        assert trained(place.of("1-a", "masked")) == whole


def test_a_short_task_writes_nothing_and_a_full_disk_costs_only_the_checkpoint(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole = trained(None)
    assert trained(Progress(tmp_path).of("1-a", "masked")) == whole
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_bytes(b"")
    broken = Progress(tmp_path / "file", every_s=0.0)
    assert trained(broken.of("1-a", "masked")) == whole
    assert "starts the task over" in caplog.text
