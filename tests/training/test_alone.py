"""One example under batch norm: no engine can train on it, and the device says so."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from patience import patience
from torch import nn

from edge_sdk.agent.training_thread import TrainingThread
from edge_sdk.errors import EngineError
from edge_sdk.program.ceiling import MemoryExceededError
from edge_sdk.session import Broke, Session, SessionPhase, advance
from edge_sdk.sparse import draw
from edge_sdk.tasks.layers import layers_of
from edge_sdk.tasks.task import Examples, Task
from edge_sdk.training.runner import TaskRunner
from edge_sdk.wire.blob import manifest_of
from edge_sdk.wire.codec import pack, unpack
from edge_sdk.wire.messages import Fail, MaskRecipe, TaskOrder, Training
from edge_sdk.wire.rules import Frozen, LocalRule, Rewire, WarmUp
from edge_sdk.wire.values import Values, pack_values


def model() -> nn.Module:
    return nn.Sequential(
        nn.Linear(16, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 4)
    )


ONE = Examples(np.ones((1, 16), np.float32), np.zeros(1, np.int64))
TASK = Task(
    name="bn",
    model=model,
    loss=nn.functional.cross_entropy,
    train_data=lambda _: ONE,
    eval_data=lambda _: ONE,
    input_shape=(16,),
)
LAYERS = layers_of(model())
COUNTS = {layer.name: layer.numel // 2 for layer in LAYERS}
MASK = draw(LAYERS, COUNTS, 5)
DENSE = {n: t.numpy() for n, t in model().state_dict().items() if n not in MASK.layers}
BASE = pack_values(
    Values(MASK.digest, {n: np.ones(MASK.counts[n], np.float32) for n in MASK}, DENSE),
    MASK,
)


def order(rule: LocalRule) -> TaskOrder:
    return TaskOrder(
        id="1-a",
        round_no=1,
        density=0.5,
        base=manifest_of(BASE),
        mask=MaskRecipe(5, COUNTS, MASK.digest),
        rule=rule,
        training=Training(epochs=1, batch_size=8, learning_rate=0.1),
        ttl_ms=1000,
        shard=0,
        codec="fp32",
        moves=isinstance(rule, Rewire),
    )


@pytest.mark.parametrize("engine", ["masked", "program"])
@pytest.mark.parametrize("rule", [Frozen(), WarmUp(), Rewire(0.3)], ids=repr)
def test_it_is_refused_by_the_layers_name_with_what_to_do(
    rule: LocalRule, engine: Any
) -> None:
    runner = TaskRunner(TASK, ONE, engine)
    with pytest.raises(EngineError, match="is batch norm, which cannot") as why:
        runner.run(order(rule), BASE, lambda: False)
    assert "two examples at least" in why.value.help


@pytest.mark.parametrize(
    ("error", "lasting"),
    [
        (EngineError("no"), True),
        (IndexError("class 7 of 4"), True),
        (OSError("disk full"), False),
        (MemoryError(), False),
        (MemoryExceededError("a warm-up is dense"), False),
        (SystemExit("no GPU"), False),  # or its thread would end without a word
    ],
)
def test_the_device_says_whether_it_lasts(error: BaseException, lasting: bool) -> None:
    class Runner:
        engine, engines = "masked", ("masked",)

        def run(self, *_: object) -> Any:
            raise error

    said: list[Any] = []
    done = threading.Event()

    def put(outcome: Any) -> None:
        said.append(outcome)
        done.set()

    work = TrainingThread(Runner(), 1, None, lambda: 0, put, lambda: None, lambda: 0.0)
    work.start(order(Frozen()), [BASE])
    assert done.wait(patience(60))
    (broke,) = said
    assert isinstance(broke, Broke)
    session = Session(SessionPhase.TRAIN, order=order(Frozen()))
    _, effects = advance(session, broke)
    (fail,) = [e.message for e in effects if hasattr(e, "message")]
    assert unpack(pack(fail), Fail) == fail
    assert (fail.lasting is True) == lasting


def test_a_task_begins_at_nothing_and_a_halted_one_counts_no_more() -> None:
    """What the last one had done would read as all but done: no deadline waits."""
    asked: list[Callable[[], bool]] = []
    said = threading.Event()

    class Runner:
        engine, engines = "masked", ("masked",)

        def run(self, _order: object, _base: object, stop: Callable[[], bool]) -> Any:
            asked.append(stop)
            if len(asked) == 1:
                stop(), stop()
            raise EngineError("no")

    def put(_: object) -> None:
        said.set()

    work = TrainingThread(Runner(), 64, None, lambda: 0, put, lambda: None, lambda: 0.0)
    work.start(order(Frozen()), [BASE])
    assert said.wait(patience(60))
    assert work.progress == 125
    work.cancel()
    said.clear()
    work.start(order(Frozen()), [BASE])
    assert said.wait(patience(60))
    assert work.progress == 0
    assert asked[0]()  # the last step of the first
    assert work.progress == 0
