"""A slot of one's own that fails: the round ends by its name, no device is blamed."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec
import numpy as np
import pytest
from in_threads import run_around

from coordinator.algorithms import ALGORITHMS
from coordinator.algorithms.slots import MAX_FAILURES
from coordinator.ledger import open_ledger, read_ledger
from coordinator.rounds.state import RoundPhase, TaskPhase
from coordinator.server.dispatch import MessageDispatcher
from coordinator.server.global_model import GlobalModel
from coordinator.server.loop import Server
from coordinator.settings import RunSettings, TrainingSettings, WarmUpSettings
from coordinator.simulation.record import RoundRecord, read_records
from coordinator.simulation.run import simulate
from coordinator.simulation.settings import SimulationSettings
from coordinator.simulation.workers.in_process import in_process
from coordinator.views.terminal.status import summary
from device_profiles import load_board
from edge_sdk.agent import Agent, Identity
from edge_sdk.datasets.partition import load_partition
from edge_sdk.datasets.prepare import prepare_folders
from edge_sdk.errors import AlgorithmError, StateError
from edge_sdk.storage.journal import Journal
from edge_sdk.tasks.task import load_task
from edge_sdk.terminal.exits import exit_of
from edge_sdk.training.runner import TaskRunner
from edge_sdk.transport.memory import MemoryBroker

DEVICES = ("pi-1", "pi-2")
SLOTS = ("plan", "assign", "local", "aggregate", "revise", "start")
TASK = load_task("digits")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("data")
    return prepare_folders(
        "digits", folder / "cache", folder / "out", DEVICES, alpha=1.0, seed=1
    )


class Failing:
    """A slot that works at first, fails so often, and works again."""

    def __init__(self, slot: Callable[..., Any], *, after: int, times: int) -> None:
        self.slot, self.left, self.times = slot, after, times

    def __call__(self, *given: Any) -> Any:
        if self.left > 0:
            self.left -= 1
        elif self.times > 0:
            self.times -= 1
            raise ZeroDivisionError("no reading of the third\nsensor")
        return self.slot(*given)


@pytest.fixture
def own(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., str]]:
    """Makes an algorithm of one's own, of `module:object`."""

    def make(**slots: Any) -> str:
        module = ModuleType("own_algorithm")
        module.mine = replace(ALGORITHMS["erk"], name="mine", **slots)  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "own_algorithm", module)
        return "own_algorithm:mine"

    return make


class Run:
    """A federation of two devices in this process."""

    def __init__(
        self,
        folder: Path,
        data: dict[str, Path],
        algorithm: str,
        rounds: int,
        recalibrate: int = 0,
    ) -> None:
        self.folder, self.data, self.broker = folder, data, MemoryBroker()
        self.settings = RunSettings(
            federation="slots",
            task="digits",
            evaluation=data["evaluation"],
            densities=[0.2],
            rounds=rounds,
            algorithm=algorithm,
            wait_for=2,
            training=TrainingSettings(max_steps=2, recalibrate=recalibrate),
            warm_up=WarmUpSettings(devices=1, epochs=1, max_steps=2),
        )

    def agents(self) -> list[Agent]:
        profile = msgspec.to_builtins(load_board("raspberry_pi_4b_4gb"))
        return [
            Agent(
                Identity(name, "slots", "digits", len(examples), profile),
                self.broker.connect,
                Journal(self.folder / name),
                TaskRunner(TASK, examples, "masked"),
            )
            for name in DEVICES
            for examples in (load_partition(self.data[name]),)
        ]

    def run(self, change: Callable[[Server], None] = lambda _: None) -> None:
        with closing(open_ledger(self.folder / "run")) as ledger:
            scored = TASK.eval_data(self.settings.evaluation)
            server = Server(self.settings, TASK, scored, ledger, self.broker.connect)
            change(server)
            assert run_around(server, self.agents()) == []

    def rounds(self) -> list[Any]:
        with closing(read_ledger(self.folder / "run")) as ledger:
            return ledger.rounds()

    def weights(self) -> bytes:
        last = self.rounds()[-1].model
        return b"".join(
            path.read_bytes() for path in sorted((self.folder / "run").rglob(str(last)))
        )


def test_an_aggregate_that_fails_twice_costs_two_rounds_and_no_device(
    tmp_path: Path,
    data: dict[str, Path],
    own: Callable[..., str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    broken = Failing(ALGORITHMS["erk"].aggregate, after=1 + 1, times=2)  # 1 is a trial
    run = Run(tmp_path, data, own(aggregate=broken), rounds=2)
    run.run()
    rows = run.rounds()
    assert [r.phase for r in rows if r.no] == [
        RoundPhase.DONE,
        RoundPhase.ABORTED,
        RoundPhase.ABORTED,
        RoundPhase.DONE,
    ]
    assert re.fullmatch(
        r"slot aggregate of algorithm 'mine' raised ZeroDivisionError: no reading of "
        r"the third sensor \(test_algorithm_fails\.py, line \d+\)",
        rows[-2].note,
    )
    found = summary(tmp_path / "run")
    assert found["rounds_done"] == 2
    assert found["algorithm_failures"] == 2
    assert [d["refused"] for d in found["devices"]] == [0, 0]
    assert "could not be handled" not in caplog.text
    assert "round 2 aborted: slot aggregate of algorithm 'mine'" in caplog.text


AT_ITS_PLACE = [0.1, 0.01, 0.01, 0.01, 0.0]  # the second two times in vain


def test_a_round_that_was_aborted_is_made_up_for_at_its_rate(
    tmp_path: Path, data: dict[str, Path], own: Callable[..., str]
) -> None:
    broken = Failing(ALGORITHMS["erk"].aggregate, after=1 + 1, times=2)
    run = Run(tmp_path, data, own(aggregate=broken), rounds=3, recalibrate=1)
    run.run()
    rates = [r.rate for r in run.rounds() if r.no]
    assert rates == pytest.approx(AT_ITS_PLACE)
    with closing(read_ledger(tmp_path / "run")) as ledger:
        for no, rate in enumerate(rates, 1):
            for row in ledger.tasks(no):
                order = row.order(tmp_path / "run")
                assert order.training.learning_rate == rate


def test_a_simulated_round_that_was_aborted_is_made_up_for_at_its_rate(
    tmp_path: Path,
) -> None:
    broken = Failing(ALGORITHMS["erk"].aggregate, after=1, times=2)
    records = simulated(tmp_path, rounds=3, recalibrate=1, aggregate=broken)
    assert [r.rate for r in records[1:]] == pytest.approx(AT_ITS_PLACE)


@pytest.mark.parametrize("slot", SLOTS)
def test_a_slot_that_fails_in_each_round_ends_the_run_by_its_name(
    tmp_path: Path, data: dict[str, Path], own: Callable[..., str], slot: str
) -> None:
    broken = Failing(getattr(ALGORITHMS["erk"], slot), after=1, times=10**6)
    run = Run(tmp_path, data, own(**{slot: broken}), rounds=2)
    with pytest.raises(
        AlgorithmError, match=f"slot {slot} of .*ZeroDivisionError"
    ) as e:
        run.run()
    assert "flash-coordinator resume" in e.value.help
    assert exit_of(e.value) == 21
    aborted = [r for r in run.rounds() if r.phase is RoundPhase.ABORTED]
    assert len({r.no for r in aborted}) == len(aborted)
    assert summary(tmp_path / "run")["algorithm_failures"] == MAX_FAILURES
    assert all(slot in r.note for r in aborted)
    assert all(r.phase is not RoundPhase.CLOSING for r in run.rounds())


WRONG: dict[str, tuple[Any, str]] = {
    "aggregate": (lambda _b, _u: None, "aggregate of algorithm 'mine' gave None, not"),
    "revise": (lambda *_: {}, "revise of algorithm 'mine' gave a dict, not a MaskF"),
    "assign": (
        lambda a, _d: dict.fromkeys(a, 0.77),
        r"gave 'pi-\d' density 0\.77, none of \[0\.2\]",
    ),
    "local": (lambda _context: "frozen", "local of algorithm 'mine' gave a str, not"),
}


def _later(slot: str, wrong: Any) -> Any:
    """As it should be when it is tried at the start, wrong in each round."""
    right, calls = getattr(ALGORITHMS["erk"], slot), []

    def called(*given: Any) -> Any:
        calls.append(1)
        return right(*given) if len(calls) == 1 else wrong(*given)

    return called


@pytest.mark.parametrize("slot", WRONG)
def test_a_slot_that_gives_the_wrong_thing_in_a_round_is_named(
    tmp_path: Path, data: dict[str, Path], own: Callable[..., str], slot: str
) -> None:
    wrong, said = WRONG[slot]
    run = Run(tmp_path, data, own(**{slot: _later(slot, wrong)}), rounds=2)
    with pytest.raises(AlgorithmError, match=said):
        run.run()


def test_an_aggregate_of_other_shapes_is_named_with_the_entry(
    tmp_path: Path, data: dict[str, Path], own: Callable[..., str]
) -> None:
    def shorter(base: Any, updates: Any) -> Any:
        model, coverage = ALGORITHMS["erk"].aggregate(base, updates)
        return replace(
            model, dense={n: a[:-1] for n, a in model.dense.items()}
        ), coverage

    run = Run(tmp_path, data, own(aggregate=_later("aggregate", shorter)), rounds=2)
    with pytest.raises(AlgorithmError, match=r"gave entry \S+ of shape \([\d, ]+\), n"):
        run.run()


def spoiling(*given: Any) -> Any:
    """A mean of which no number is left."""
    model, coverage = ALGORITHMS["erk"].aggregate(*given)
    nan = {n: a * np.float32("nan") for n, a in model.masked.items()}
    return replace(model, masked=nan), coverage


def test_an_aggregate_that_spoils_the_model_ends_the_run_and_blames_no_device(
    tmp_path: Path, data: dict[str, Path], own: Callable[..., str]
) -> None:
    run = Run(tmp_path, data, own(aggregate=_later("aggregate", spoiling)), rounds=2)
    with pytest.raises(
        AlgorithmError, match=r"slot aggregate of .* not finite; the me"
    ):
        run.run()
    found = summary(tmp_path / "run")
    assert found["algorithm_failures"] == MAX_FAILURES
    assert [d["refused"] for d in found["devices"]] == [0, 0]
    for no in range(1, MAX_FAILURES + 1):
        with closing(read_ledger(tmp_path / "run")) as ledger:
            assert all(t.phase is TaskPhase.ACCEPTED for t in ledger.tasks(no))


@pytest.mark.parametrize("cohort", [1, 2])
def test_a_simulated_aggregate_that_spoils_the_model_ends_the_run(
    tmp_path: Path, cohort: int
) -> None:
    with pytest.raises(
        AlgorithmError, match=r"slot aggregate of .* not finite; the me"
    ):
        simulated(tmp_path, cohort=cohort, aggregate=spoiling)
    assert not any(r.refused or r.unable for r in read_records(tmp_path))


def test_devices_that_assign_leaves_out_are_not_asked_in_simulation(
    tmp_path: Path,
) -> None:
    records = simulated(tmp_path, assign=lambda a, d: {min(a): max(d)})
    assert [len(r.accepted) for r in records] == [0, 1, 1]


def test_rounds_are_opened_and_closed_outside_of_every_packets_handler(
    tmp_path: Path,
    data: dict[str, Path],
    own: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    inside, seen = [False], []
    hear = MessageDispatcher.hear

    def heard(self: MessageDispatcher, packet: Any) -> None:
        inside[0] = True
        hear(self, packet)
        inside[0] = False

    def watched(kind: type, name: str) -> None:
        before = getattr(kind, name)

        def call(self: Any, *given: Any, **named: Any) -> Any:
            seen.append((name, inside[0]))
            return before(self, *given, **named)

        monkeypatch.setattr(kind, name, call)

    monkeypatch.setattr(MessageDispatcher, "hear", heard)
    for name in ("unsound", "grow", "plan_masks"):
        watched(GlobalModel, name)
    run = Run(tmp_path, data, "flash", rounds=2)

    def watch_ledger(server: Server) -> None:
        for name in ("freeze", "finish", "abort", "plan_round", "issue_tasks"):
            watched(type(server._ledger), name)

    run.run(watch_ledger)
    assert {name for name, _ in seen} >= {"grow", "freeze", "finish", "plan_round"}
    assert [name for name, was_inside in seen if was_inside] == []


@pytest.mark.parametrize("dies_before", ["freeze", "grow", "finish"])
def test_killed_between_the_last_update_and_the_close_it_resumes_to_the_same_bytes(
    tmp_path: Path,
    data: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
    dies_before: str,
) -> None:
    whole = Run(tmp_path / "whole", data, "erk", rounds=2)
    whole.run()

    class Killed(BaseException):
        pass

    def die(*_: Any, **__: Any) -> Any:
        raise Killed

    broken = Run(tmp_path / "broken", data, "erk", rounds=2)

    def dying(server: Server) -> None:
        owner: Any = server._global_model if dies_before == "grow" else server._ledger
        monkeypatch.setattr(owner, dies_before, die)

    with pytest.raises(Killed):
        broken.run(dying)
    broken.run()
    assert broken.weights() == whole.weights() != b""


def simulated(
    folder: Path, cohort: int = 2, rounds: int = 2, recalibrate: int = 0, **slots: Any
) -> list[RoundRecord]:
    """Rounds of two simulated devices, in this process."""
    return simulate(
        folder,
        SimulationSettings(
            task="digits",
            data="digits",
            devices=2,
            cohort=cohort,
            densities=[0.2],
            rounds=rounds,
            algorithm="mine",
            training=TrainingSettings(max_steps=2, recalibrate=recalibrate),
        ),
        worker_count=0,
        open_workers=partial(in_process, task=TASK),
        algorithm=replace(ALGORITHMS["erk"], name="mine", **slots),
    )


def test_a_simulated_round_whose_aggregate_fails_is_given_up_by_its_name(
    tmp_path: Path,
) -> None:
    broken = Failing(ALGORITHMS["erk"].aggregate, after=1, times=2)
    records = simulated(tmp_path, aggregate=broken)
    assert [bool(r.note) for r in records] == [False, False, True, True, False]
    assert "slot aggregate of algorithm 'mine' raised Zero" in records[2].note


@pytest.mark.parametrize("slot", SLOTS)
def test_a_slot_that_fails_in_each_simulated_round_ends_the_run_by_its_name(
    tmp_path: Path, slot: str
) -> None:
    broken = Failing(getattr(ALGORITHMS["erk"], slot), after=0, times=10**6)
    with pytest.raises(AlgorithmError, match=f"slot {slot} of .*ZeroDivisionError"):
        simulated(tmp_path, **{slot: broken})


def test_a_disk_that_refuses_while_updates_are_read_is_no_fault_of_the_algorithm(
    tmp_path: Path,
    data: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = Run(tmp_path, data, "erk", rounds=1)

    def refuse(_name: str) -> bytes:
        raise StateError("the disk refuses")

    with pytest.raises(StateError, match="the disk refuses"):
        run.run(lambda server: monkeypatch.setattr(server._ledger, "blob", refuse))
