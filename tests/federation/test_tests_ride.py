"""Tests of models ride with tasks and their answers with acknowledgements.

So they cost few bytes, and no round waits for one.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from msgspec import UNSET
from patience import patience
from torch import nn
from virtual import Device, House, VirtualWork

from coordinator.ledger.device_rows import TOGETHER
from edge_sdk.agent import effects
from edge_sdk.agent.training_thread import Outcome, TrainingThread
from edge_sdk.evaluation import accuracy
from edge_sdk.session import Broke
from edge_sdk.sparse import draw, exact_counts, uniform
from edge_sdk.tasks.layers import initial_state, layers_of, make_model
from edge_sdk.tasks.task import Examples, Task
from edge_sdk.training.local import Stopped
from edge_sdk.training.runner import TaskRunner
from edge_sdk.transport.memory import MemoryBroker
from edge_sdk.wire import topics
from edge_sdk.wire.blob import manifest_of
from edge_sdk.wire.codec import decode
from edge_sdk.wire.messages import (
    Evaluate,
    Evaluated,
    MaskRecipe,
    Message,
    TaskAck,
    TaskOrder,
    Training,
)
from edge_sdk.wire.named import Holdout
from edge_sdk.wire.rules import Frozen
from edge_sdk.wire.values import Values, pack_values

ROUNDS = 4
NAMES = "pi-1", "pi-2"
BASE, MASK = manifest_of(b"model"), MaskRecipe(1, {"fc": 2}, bytes(32))
Answers = Callable[[Evaluate], Evaluated | None]
Rooms = Callable[..., "Room"]


def right(order: Evaluate) -> Evaluated:
    return Evaluated(order.id, order.model.sha256, 20, {"accuracy": [15, 20]})


def order_of(name: str, like: Evaluate) -> TaskOrder:
    training = Training(epochs=1, batch_size=4, learning_rate=0.1)
    return TaskOrder(
        *(name, 2, 0.5, like.model, like.mask, Frozen(), training, 1000, 0, "fp32")
    )


class Room(House):
    """A federation in virtual time whose devices test models; every message is kept."""

    def __init__(self, folder: Path, **changes: Any) -> None:
        broker = MemoryBroker()
        self.said: list[tuple[str, Message]] = []
        spy = broker.connect(self._note, lambda _: None)
        spy.subscribe(topics.all_uploads("home", data=False))
        super().__init__(
            folder,
            broker,
            **{"rounds": ROUNDS, "algorithm": "erk", "holdout": 0.2, **changes},
        )

    def _note(self, delivery: Any) -> None:
        envelope = decode(delivery.payload)
        self.said.append((envelope.header.source, envelope.message))

    def device(self, name: str, answers: Answers) -> Device:
        device = self.join(name)
        self.answer(device, answers)
        return device

    @staticmethod
    def answer(device: Device, answers: Answers) -> None:
        """Has tests end at once with what `answers` says; None is none for ever."""
        assert device.agent is not None
        agent = device.agent

        class Tests(VirtualWork):
            def evaluate(self, order: Evaluate, *_: object) -> None:
                found = answers(order)
                if found is not None:
                    agent._queue.put(found)

        agent._session_effects.evaluator._work = Tests(device)  # type: ignore[assignment]

    def rounds(self, turns: int = 200) -> None:
        for _ in range(turns):
            if self.coordinator.done:
                return
            self.turn()
        pytest.fail("the rounds did not end")

    def tested(self) -> set[tuple[int, str]]:
        rows = self.coordinator.ledger.evaluations()
        return {(r.round, r.device) for r in rows if r.device != TOGETHER}

    def alone(self) -> list[str]:
        return [d for d, said in self.said if isinstance(said, Evaluated)]


@pytest.fixture
def house(tmp_path: Path) -> Iterator[Rooms]:
    """Makes rooms; all of them are closed at the end."""
    with ExitStack() as stack:

        def make(**changes: Any) -> Room:
            room = Room(tmp_path / str(len(made)), **changes)
            stack.callback(room.close)
            made.append(room)
            return room

        made: list[Room] = []
        yield make


def test_answers_ride_with_acknowledgements_and_nothing_is_asked_by_itself(
    house: Rooms,
) -> None:
    room = house()
    inboxes: list[Message] = []
    spy = room.broker.connect(
        lambda m: inboxes.append(decode(m.payload).message), lambda _: None
    )
    for name in NAMES:
        spy.subscribe(topics.inbox("home", name))
        room.device(name, right)
    room.rounds()
    orders = [m for m in inboxes if isinstance(m, TaskOrder)]
    rides = {o.round_no for o in orders if o.test is not None}
    assert rides == {2, 3, 4}  # the first base is not trained
    assert not [m for m in inboxes if isinstance(m, Evaluate)]
    assert room.alone() == []
    # The answer about the last task's base waits for whatever is said next.
    assert room.tested() == {(no, d) for no in (1, 2) for d in ("pi-1", "pi-2")}
    acks = [m for _, m in room.said if isinstance(m, TaskAck)]
    assert sum(ack.tested is not UNSET for ack in acks) == 4


def test_a_round_never_waits_for_a_device_that_does_not_answer(house: Rooms) -> None:
    """The same rounds, at the same times, as where nobody tests anything."""

    def ends(holdout: float, answers: Answers) -> list[float]:
        room = house(holdout=holdout)
        for name in NAMES:
            room.device(name, answers)
        seen: list[float] = []
        for _ in range(200):
            if room.coordinator.ledger.rounds_done() > len(seen):
                seen.append(room.clock())
            if room.coordinator.done:
                break
            room.turn()
        rows = room.coordinator.ledger.rounds()
        assert all(len(room.coordinator.ledger.frozen(r.no)) == 2 for r in rows)
        return seen

    silent = ends(0.2, lambda _: None)
    assert silent == ends(0.0, right)
    assert len(silent) == ROUNDS


def test_an_idle_device_says_its_answer_alone_and_a_lost_one_is_asked_for(
    house: Rooms,
) -> None:
    asked: list[str] = []

    def once_lost(order: Evaluate) -> Evaluated | None:
        asked.append(order.id)
        return right(order) if asked.count(order.id) > 1 else None

    room = house(rounds=2)
    room.device("pi-1", right)
    forgets = room.device("pi-2", once_lost)
    room.rounds()
    assert room.tested() == set()
    forgets.kill()  # and with it what it had not said
    forgets.start()
    room.answer(forgets, once_lost)
    for _ in range(20):
        room.turn()
    assert room.tested() == {(1, "pi-1"), (1, "pi-2")}
    assert sorted(room.alone()) == ["pi-1", "pi-2"]
    assert len(asked) == 2


def test_a_device_whose_tests_are_all_interrupted_answers_one_round_later(
    house: Rooms,
) -> None:
    asked: list[str] = []

    def after_the_next_task(order: Evaluate) -> Evaluated | None:
        asked.append(order.id)
        return right(order) if asked.count(order.id) > 1 else None

    room = house(rounds=6)
    room.device("pi-1", right)
    room.device("pi-2", after_the_next_task)
    room.rounds()
    quick, slow = ({no for no, d in room.tested() if d == name} for name in NAMES)
    assert quick == {1, 2, 3, 4}
    assert slow == {1, 2, 3}
    assert room.alone() == []


def test_a_device_of_0_1_0_gets_the_orders_that_it_knows(
    house: Rooms, monkeypatch: pytest.MonkeyPatch
) -> None:
    hello_of = effects.hello_of

    def old(*given: Any) -> Any:
        return msgspec.structs.replace(hello_of(*given), evaluates=UNSET)

    monkeypatch.setattr(effects, "hello_of", old)
    room = house()
    for name in NAMES:
        room.device(name, right)
    room.rounds()
    for no in range(1, ROUNDS + 1):
        for task in room.coordinator.ledger.tasks(no):
            assert b"metrics" not in task.order_bytes
    assert room.tested() == set()


@pytest.mark.parametrize("sums", [[1e301, 1.0], [15.0, 20.0, 1.0], [25.0, 20.0]])
def test_sums_that_cannot_be_cost_the_answer_and_no_round(
    house: Rooms, sums: list[float]
) -> None:
    room = house()
    room.device("pi-1", right)
    named = {"accuracy": sums}
    room.device("pi-2", lambda o: Evaluated(o.id, o.model.sha256, 20, named))
    room.rounds()
    ledger = room.coordinator.ledger
    assert all(len(ledger.frozen(r.no)) == 2 for r in ledger.rounds())
    (whole,) = [r for r in ledger.evaluations(1) if r.device == TOGETHER]
    assert whole.metrics["accuracy"] == 0.75


def test_what_is_wrong_with_a_devices_tests_is_said_once_with_its_name(
    house: Rooms, caplog: pytest.LogCaptureFixture
) -> None:
    def of(name: str, order: Evaluate) -> Evaluated:
        good = right(order)
        if name == "pi-3":  # another version of the task
            return msgspec.structs.replace(good, sums={"accuracy": [15, 20, 1]})
        failed = {"loss": "its sums hold a NaN or an infinity"}
        return msgspec.structs.replace(good, failed=failed) if name == "pi-2" else good

    room = house(rounds=5, wait_for=3)
    for name in (*NAMES, "pi-3"):
        room.device(name, partial(of, name))
    room.rounds()
    found = {d.name: d.test_error for d in room.coordinator.ledger.devices()}
    assert found["pi-1"] is None
    assert found["pi-2"] == "loss: its sums hold a NaN or an infinity"
    wholes = [r for r in room.coordinator.ledger.evaluations() if r.device == TOGETHER]
    assert [w.metrics["accuracy"] for w in wholes] == [0.75] * 3
    logged = [r for r in caplog.records if r.levelname == "WARNING"]
    said = [r.getMessage() for r in logged if "answers" in r.name]
    assert [s for s in said if s.startswith("pi-2, test of round 1: loss: its sums")]
    assert [s for s in said if "accuracy is without pi-3, whose sums are not of" in s]
    assert len(said) == 2
    there = [r.getMessage() for r in logged if "evaluator" in r.name]
    assert len(there) == 1
    assert "metric loss: its sums hold a NaN" in there[0]


def test_a_task_does_not_wait_for_a_test_that_goes_on() -> None:
    """The test below never ends by itself: whoever waited for it would not, either."""
    begun, done, outcomes = threading.Event(), threading.Event(), list[Outcome]()

    class Endless:
        engine, engines = "masked", ("masked",)

        def evaluate(self, order: Any, base: bytes, stop: Any, **_: Any) -> Any:
            begun.set()
            while not stop():
                threading.Event().wait(0.001)
            raise Stopped

        def run(self, order: TaskOrder, *_: object, **__: object) -> Any:
            return Broke(order.id, "trained")

    def put(outcome: Outcome) -> None:
        outcomes.append(outcome)
        done.set()

    given = Endless(), 1, None, lambda: 0, put, lambda: None, lambda: 0.0
    work = TrainingThread(*given)  # type: ignore[arg-type]
    asked = Evaluate("1-a", 1, BASE, MASK, ["accuracy"])
    work.evaluate(asked, [b"model"])
    begun.wait()
    work.start(order_of("2-a", asked), [b"model"])
    done.wait()
    assert outcomes == [Broke("2-a", "trained")]
    work.stop()
    work.join(patience(10))


def test_a_test_that_tasks_interrupt_goes_on_where_it_was() -> None:
    """Batches are counted: each goes through once, and the sums are those of one go."""
    rng = np.random.default_rng(1)
    inputs = rng.normal(size=(1000, 4)).astype(np.float32)
    examples = Examples(inputs, rng.integers(0, 3, 1000))
    task = Task(
        name="points",
        model=lambda: nn.Linear(4, 3),
        loss=nn.CrossEntropyLoss(),
        input_shape=(4,),
        metrics=[accuracy()],
    )
    runner = TaskRunner(task, examples, "masked")
    layers = layers_of(make_model(task, 0), task.dense_layers)
    counts = exact_counts(uniform(layers), layers, 0.5)
    mask, state = draw(layers, counts, 1), initial_state(task, 1)
    masked = {name: state.pop(name)[mask[name]] for name in mask}
    base = pack_values(Values(mask.digest, masked, state), mask)
    order = Evaluate(
        *("1-a", 1, manifest_of(base), MaskRecipe(1, counts, mask.digest)),
        *(["accuracy"], Holdout(0.5, 1)),
    )
    whole = runner.evaluate(order, base, lambda: False)
    assert whole.examples > 400
    asked, stops = 0, 0

    def every_third() -> bool:
        nonlocal asked
        asked += 1
        return asked % 3 == 0

    found = None
    while found is None:
        with suppress(Stopped):
            found = runner.evaluate(order, base, every_third)
        stops += found is None
    assert found == whole
    assert stops >= 3
    assert asked - stops == -(-whole.examples // 64)  # no batch twice
