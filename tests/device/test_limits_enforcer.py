from __future__ import annotations

import datetime as dt
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from device_profiles import Caps
from edge_sdk.device.limits.decision import Conditions, Go, Pause, Verdict
from edge_sdk.device.limits.enforcement import LimitsEnforcer
from edge_sdk.device.probe.sensors import Power, Thermal

NIGHT = dt.datetime(2026, 11, 25, 23, 0, tzinfo=dt.timezone.utc)
MAINS = Power(on_battery=False, percent=None)


class Board:
    """A board whose heat and clock the test sets; sleeping passes its time."""

    def __init__(self, celsius: float | None = 50.0) -> None:
        self.celsius, self.at, self.slept, self.reads = celsius, 100.0, 0.0, 0
        self.cools = 0.0  # degrees a second while it sleeps

    def clock(self) -> float:
        return self.at

    def sleep(self, seconds: float) -> None:
        self.at += seconds
        self.slept += seconds
        if self.celsius is not None:
            self.celsius -= self.cools * seconds

    def read(self, now: dt.datetime, moved_today: int) -> Conditions:
        self.reads += 1
        heat = Thermal(self.celsius, None, "")
        return Conditions(60 * now.hour, heat, MAINS, None, moved_today)

    def limits_enforcer(
        self, caps: Caps | None = None, cores: int = 1
    ) -> LimitsEnforcer:
        return LimitsEnforcer(
            caps or Caps(),
            cores=cores,
            now=lambda: NIGHT,
            clock=self.clock,
            sleep=self.sleep,
            read=self.read,
        )


def run(
    board: Board, limits_enforcer: LimitsEnforcer, steps: int, step_s: float
) -> list[Verdict]:
    """Trains so many steps under the enforcer; returns what it told."""
    told: list[Verdict] = []
    stop = limits_enforcer.between_steps(lambda: False, lambda: 0, told.append)
    for _ in range(steps):
        assert not stop()
        board.at += step_s
    assert not stop()
    return told


def test_a_hot_board_cools_in_the_middle_of_a_task_and_goes_on() -> None:
    board = Board(celsius=85.0)
    board.cools = 0.5
    limits_enforcer = board.limits_enforcer()
    told = run(board, limits_enforcer, steps=3, step_s=1.0)
    assert [type(t) for t in told] == [Pause, Go]
    assert told[0] == Pause(30.0, "85 C, cooling below 78")
    assert board.celsius is not None
    assert board.celsius <= 72.0
    # Training is timed without the pause.
    assert limits_enforcer.working_s() - 100.0 == pytest.approx(3.0, abs=0.01)
    assert board.slept > 25.0


def test_a_board_without_a_temperature_sensor_trains() -> None:
    board = Board(celsius=None)
    assert run(board, board.limits_enforcer(), steps=100, step_s=1.0) == []
    assert board.slept == 0.0


def test_sensors_are_read_every_two_seconds_at_most() -> None:
    board = Board()
    run(board, board.limits_enforcer(), steps=1000, step_s=0.01)
    assert board.reads <= 6


@given(st.floats(0.05, 1.0), st.integers(1, 8), st.floats(0.01, 5.0))
def test_rests_keep_training_to_the_share_of_the_processors(
    share: float, cores: int, step_s: float
) -> None:
    board = Board()
    limits_enforcer = board.limits_enforcer(Caps(cpu_share=share), cores)
    run(board, limits_enforcer, steps=20, step_s=step_s)
    threads = max(1, int(cores * share + 1e-9))
    used = 20 * step_s * threads / cores
    assert used / (20 * step_s + board.slept) <= share * (1 + 1e-6)


def test_a_pause_ends_at_once_when_the_task_is_cancelled() -> None:
    board = Board(celsius=90.0)  # and it stays hot
    limits_enforcer = board.limits_enforcer()
    stop = limits_enforcer.between_steps(
        lambda: board.slept > 10.0, lambda: 0, lambda _: None
    )
    assert stop()
    assert board.slept < 11.0


def test_a_spent_day_holds_training_and_the_next_day_does_not() -> None:
    board = Board()
    limits_enforcer = board.limits_enforcer(Caps(bytes_per_day=1000))
    assert isinstance(limits_enforcer.verdict(1000), Pause)
    board.at += 5.0
    assert limits_enforcer.verdict(0) == Go()
    assert limits_enforcer.today() == "2026-11-25"


@pytest.mark.parametrize("wanted", [0, 10])
def test_the_agent_is_as_nice_as_its_settings_say_and_never_less_than_it_was(
    wanted: int,
) -> None:
    nice = (
        "import os; from edge_sdk.device.limits.processor import be_nice\n"
        "for more in (0, 12):\n"
        "    before = os.nice(more)\n"
        f"    be_nice({wanted})\n"
        "    print(before, os.getpriority(os.PRIO_PROCESS, 0))\n"
    )
    line = [sys.executable, "-c", nice]
    told = subprocess.run(line, capture_output=True, text=True, check=True).stdout
    for before, after in (map(int, row.split()) for row in told.splitlines()):
        assert after == max(before, wanted)
