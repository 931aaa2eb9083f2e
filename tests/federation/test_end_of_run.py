"""The end of a run waits for tests of the last model as long as devices have reason."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from virtual import STEP_S, Device, House, VirtualWork

from coordinator.ledger.device_rows import TOGETHER
from edge_sdk.wire.messages import Evaluate, Evaluated

NAMES = "pi-1", "pi-2", "pi-3"
NEVER = 1e9
GRACE_S = 10.0 + 2.0  # of every round, and the clock's steps here


class Ending(House):
    """A federation in virtual time whose devices take seconds for their tests."""

    def __init__(self, folder: Path) -> None:
        given = {"rounds": 4, "wait_for": 3, "round_budget_s": 300.0}
        super().__init__(folder, **given, algorithm="erk", holdout=0.2)
        self.answers: list[tuple[float, Callable[[], None]]] = []

    def device(self, name: str, trains_s: float, tests_s: float) -> Device:
        device = self.join(name, takes=lambda _: trains_s)
        assert device.agent is not None
        agent, later = device.agent, self.answers

        class Tests(VirtualWork):
            def evaluate(self, order: Evaluate, *_: object) -> None:
                right = {"accuracy": [15.0, 20.0]}
                answer = Evaluated(order.id, order.model.sha256, 20, right)
                due = device.clock() + tests_s
                later.append((due, lambda: agent._queue.put(answer)))

        agent._session_effects.evaluator._work = Tests(device)  # type: ignore[assignment]
        return device

    def turn(self, step_s: float = STEP_S) -> None:
        now = self.clock.now + step_s
        for due, answer in [one for one in self.answers if one[0] <= now]:
            answer()
            self.answers.remove((due, answer))
        super().turn(step_s)

    def end(self) -> tuple[float, set[str]]:
        """Seconds that the end waits, and who has tested the last model by then."""
        began, end = self.clock(), self.coordinator.server._end

        def turn(_: str) -> bool:
            self.turn(1.0)
            return True

        end._turn = turn
        last = self.coordinator.ledger.rounds()[-1].no
        assert end._test(last)
        rows = self.coordinator.ledger.evaluations(last)
        return self.clock() - began, {r.device for r in rows} - {TOGETHER}


@pytest.fixture
def ending(tmp_path: Path) -> Iterator[Ending]:
    made = Ending(tmp_path)
    yield made
    made.close()


def test_a_device_that_is_silent_about_its_test_holds_the_end_up_no_longer_than_a_round(
    ending: Ending, caplog: pytest.LogCaptureFixture
) -> None:
    for name in NAMES:
        ending.device(name, 2.0, NEVER if name == "pi-3" else 0.0)
    ending.run()
    waited, tested = ending.end()
    assert tested == {"pi-1", "pi-2"}
    assert waited <= 1.5 * STEP_S + GRACE_S
    assert "without tests of its last model by pi-3" in caplog.text


def test_a_device_that_vanished_in_the_last_round_does_not_hold_the_end_up(
    ending: Ending,
) -> None:
    """Its broker has not noticed; three rounds have shown how long it takes."""
    for name in NAMES:
        ending.device(name, 2.0, 0.0)
    ending.until(lambda: ending.coordinator.ledger.rounds_done() >= 3)
    ending.devices["pi-3"].wire.cut(will=False)
    ending.run()
    waited, tested = ending.end()
    assert tested == {"pi-1", "pi-2"}
    assert waited <= 1.5 * STEP_S + GRACE_S


def test_slow_devices_have_as_long_for_the_last_test_as_for_a_round(
    ending: Ending,
) -> None:
    for name in NAMES:
        ending.device(name, 90.0, 60.0 if name == "pi-3" else 1.0)
    ending.run(60_000.0)
    waited, tested = ending.end()
    assert tested == set(NAMES)
    assert 60.0 <= waited <= 1.5 * (90.0 + STEP_S) + GRACE_S


def test_more_test_examples_than_training_examples_give_more_time(
    ending: Ending,
) -> None:
    for name in NAMES:
        ending.device(name, 90.0, NEVER)
    ending.run(60_000.0)
    densities = dict.fromkeys(NAMES, 0.2)
    timing = ending.coordinator.server._controller.timing
    usual = timing.waits_for_tests_s(densities, {})
    longer = timing.waits_for_tests_s(densities, {"pi-1": 150, "pi-2": 50})  # of 100
    assert longer["pi-2"] == usual["pi-2"]
    assert longer["pi-1"] - 10.0 == pytest.approx(3 * (usual["pi-1"] - 10.0))
