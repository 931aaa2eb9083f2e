from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from edge_sdk.errors import DataError
from edge_sdk.sparse import Mask
from edge_sdk.tasks.task import Examples, Task
from edge_sdk.training.local import Stopped, batches, train
from edge_sdk.training.masked import MaskedModel, masked_model
from edge_sdk.training.scoring import metrics_for, score
from edge_sdk.wire.messages import Training


def plan(**changes: float) -> Training:
    base = {"epochs": 2, "batch_size": 4, "learning_rate": 0.1}
    return Training(**(base | changes))  # type: ignore[arg-type]


def a_task(task_loss: object = nn.functional.cross_entropy) -> Task:
    return Task(
        name="toy",
        model=lambda: nn.Linear(3, 2),
        loss=task_loss,  # type: ignore[arg-type]
        train_data=lambda _: examples(),
        eval_data=lambda _: examples(),
        input_shape=(3,),
    )


def examples(count: int = 12) -> Examples:
    rng = np.random.default_rng(1)
    inputs = rng.normal(size=(count, 3)).astype(np.float32)
    return Examples(inputs, (inputs[:, 0] > 0).astype(np.int64))


def a_model() -> MaskedModel:
    torch.manual_seed(3)
    return masked_model(nn.Linear(3, 2), Mask({"weight": np.eye(2, 3, dtype=bool)}))


@given(st.integers(1, 40), st.integers(1, 9), st.integers(1, 3), st.integers(0, 2**48))
def test_an_epoch_sees_every_example_once(
    count: int, size: int, epochs: int, seed: int
) -> None:
    """All but a lone trailing one, on which batch norm cannot train."""
    found = list(batches(count, plan(epochs=epochs, batch_size=size, seed=seed)))
    left_out = int(count > 1 and size > 1 and count % size == 1)
    for epoch in range(epochs):
        seen = np.concatenate([b for e, b in found if e == epoch])
        assert len(seen) == len(set(seen)) == count - left_out
        assert set(seen) <= set(range(count))
    assert all(len(b) <= size for _, b in found)
    assert all(len(b) > 1 for _, b in found) or size == 1 or count == 1


def test_the_order_follows_the_seed_and_changes_by_epoch() -> None:
    def order(seed: int) -> list[list[int]]:
        return [b.tolist() for _, b in batches(12, plan(seed=seed))]

    assert order(1) == order(1)
    assert order(1) != order(2)
    assert order(1)[:3] != order(1)[3:]


def test_a_batch_size_of_one_trains() -> None:
    outcome = train(a_model(), a_task(), examples(), plan(batch_size=1, epochs=1))
    assert (outcome.steps, outcome.examples) == (12, 12)


def test_training_lowers_the_loss_and_repeats_itself() -> None:
    one, two = a_model(), a_model()
    before = score(one, a_task(), examples(), metrics_for(a_task(), examples()))
    outcome = train(one, a_task(), examples(), plan(epochs=20, momentum=0.9))
    train(two, a_task(), examples(), plan(epochs=20, momentum=0.9))
    after = score(one, a_task(), examples(), metrics_for(a_task(), examples()))
    assert after["loss"] < before["loss"]
    assert outcome.steps == 60
    np.testing.assert_array_equal(one.values()["weight"], two.values()["weight"])


def test_steps_are_bounded_and_examples_counted() -> None:
    outcome = train(a_model(), a_task(), examples(), plan(max_steps=2))
    assert (outcome.steps, outcome.examples) == (2, 8)


def test_it_stops_between_two_steps() -> None:
    asked: list[int] = []

    def stop() -> bool:
        asked.append(1)
        return len(asked) > 2

    with pytest.raises(Stopped):
        train(a_model(), a_task(), examples(), plan(), stop=stop)
    assert len(asked) == 3


def test_a_loss_that_is_not_finite_is_an_error_with_a_remedy() -> None:
    def broken(out: torch.Tensor, _targets: torch.Tensor) -> torch.Tensor:
        return out.sum() * float("nan")

    with pytest.raises(DataError, match="loss of task toy is not finite") as caught:
        train(a_model(), a_task(broken), examples(), plan())
    assert "learning rate" in caught.value.help


def test_the_time_is_the_clocks() -> None:
    ticks = iter([10.0, 17.5])
    outcome = train(a_model(), a_task(), examples(), plan(), clock=lambda: next(ticks))
    assert outcome.seconds == 7.5


def test_accuracy_is_scored_where_targets_are_classes_and_only_there() -> None:
    right = score(
        lambda x: torch.stack([-x[:, 0], x[:, 0]], 1),
        a_task(),
        examples(7),
        metrics_for(a_task(), examples(7)),
    )
    assert right["accuracy"] == 1.0
    real = Examples(examples().inputs, examples().inputs[:, :2])
    task = a_task(nn.functional.mse_loss)
    found = score(a_model(), task, real, metrics_for(task, real), batch=5)
    assert set(found) == {"loss"}
