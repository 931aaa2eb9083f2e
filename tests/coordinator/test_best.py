"""The best model by its metric's direction, the end of a run without a better one."""

from __future__ import annotations

import math
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.checkpoints.best import BestModels, BestRule
from coordinator.ledger import EvaluationRow, TaskRow, open_ledger
from coordinator.rounds.state import TaskPhase
from coordinator.server.run_end import RunEnd, extended_after
from coordinator.settings.extension import keep_extension
from edge_sdk.evaluation import accuracy, mae
from edge_sdk.evaluation.interval import worse_text, worsening
from edge_sdk.evaluation.metric import Metric


class Memory(dict[str, Any]):
    def put(self, key: str, value: Any) -> None:
        self[key] = value


def best(
    memory: Memory, rule: BestRule, written: list[tuple[int, float]]
) -> BestModels:
    def write(no: int, density: float, _metrics: object) -> bool:
        written.append((no, density))
        return True

    return BestModels(rule, memory, write)


@given(
    st.lists(st.floats(0, 1), min_size=1, max_size=12),
    st.booleans(),
    st.floats(0, 0.2),
)
def test_the_best_is_found_whatever_is_looked_at_when(
    values: list[float], higher: bool, gain: float
) -> None:
    """Also by a coordinator that is killed after every round."""
    rule = BestRule("m", higher, gain)
    memory, written = Memory(), list[tuple[int, float]]()
    scores = {no: {0.2: {"m": v}} for no, v in enumerate(values, 1)}
    for no in scores:
        seen = {n: s for n, s in scores.items() if n <= no}
        best(memory, rule, written).look(seen, range(no - 2, no + 1))
    wanted, found = [1], values[0]
    for no, value in enumerate(values[1:], 2):
        if (value - found if higher else found - value) > gain:
            wanted, found = [*wanted, no], value
    assert [no for no, _ in written] == wanted
    assert memory["best"]["0.2"] == {"round": wanted[-1], "value": found}


def test_a_run_ends_after_patience_and_says_why() -> None:
    rule = BestRule("loss", higher_is_better=False, patience=2)
    memory = Memory()
    one = best(memory, rule, [])
    scores = {no: {0.2: {"loss": v}} for no, v in enumerate([3.0, 1.0, 2.0], 1)}
    one.look(scores, scores)
    assert one.through == ""
    scores[4] = {0.2: {"loss": math.nan}}  # not scored
    one.look(scores, scores)
    assert one.through == ""
    scores[5] = {0.2: {"loss": 1.0}}
    one.look(scores, scores)
    assert "the best is of round 2" in one.through
    again = best(memory, rule, [])
    again.look(scores, [4, 5])
    assert again.through == one.through


def test_patience_is_counted_anew_after_an_extension(tmp_path: Path) -> None:
    """A run that had ended by its patience trained no more, however far extended."""
    memory, scores = Memory(), {no: {0.2: {"m": 1.0 / no}} for no in range(1, 6)}
    with closing(open_ledger(tmp_path / "run")) as ledger:
        for no in (1, 2, 3):
            ledger.plan_round(no, goal=1, quorum=1, rate=0.1, base="")
            ledger.finish(no, model=f"round-{no}")
        ledger.put("ended", "no better model for 2 scored rounds")
        assert extended_after(ledger) == 0
        keep_extension(ledger.folder, 9)
        assert [extended_after(ledger), ledger.get("ended")] == [3, ""]
        ledger.plan_round(4, goal=1, quorum=1, rate=0.1, base="")
        ledger.finish(4, model="round-4")
        assert extended_after(ledger) == 3  # of the same extension
    rule = BestRule("m", higher_is_better=True, patience=2)
    one = BestModels(rule, memory, lambda *_: True, after=3)
    one.look({no: scores[no] for no in (1, 2, 3, 4)}, scores)
    assert one.through == ""
    one.look(scores, scores)
    assert "for 2 scored rounds: the best is of round 1" in one.through


def test_a_model_whose_checkpoint_is_gone_is_not_the_best() -> None:
    memory = Memory()
    one = BestModels(BestRule("m", True), memory, lambda *_: False)
    one.look({1: {0.2: {"m": 1.0}}}, [1])
    assert not one.rounds()


def sums(metric: Metric, shift: float, seed: int) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    parts = []
    for _ in range(12):
        truth = rng.normal(size=40)
        parts.append(metric.of(truth + shift + rng.normal(size=40) * 0.5, truth))
    return parts


def test_a_model_is_worse_only_beyond_its_interval_and_in_the_metrics_direction() -> (
    None
):
    metric = mae()
    before, after = sums(metric, 0.0, 1), sums(metric, 1.0, 1)
    assert "mae is 0." in worse_text(metric, before, after, "12 parts")
    assert not worse_text(metric, after, before, "12 parts")
    same = worsening(metric, before, sums(metric, 0.0, 2))
    assert same is not None
    assert abs(same[0]) < same[1] + 0.05
    assert not worse_text(metric, before, before, "12 parts")


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ([[9.0, 10]], [[1.0, 10]]),  # one part has no interval
        ([[9.0, 10]] * 3, [[1.0, 10]] * 2),
        ([[0.0, 0]] * 3, [[0.0, 0]] * 3),
        ([[9.0, 10]] * 3, [[90.0, 10]] * 3),  # no share
    ],
)
def test_what_has_no_interval_is_not_marked(before: Any, after: Any) -> None:
    given = [np.array(p) for p in before], [np.array(p) for p in after]
    assert worsening(accuracy(), *given) is None
    assert not worse_text(accuracy(), *given, "parts")


def test_a_best_model_keeps_its_value_and_the_one_before_when_answers_come_late() -> (
    None
):
    memory, written = Memory(), list[tuple[int, float]]()
    one = best(memory, BestRule("m", True), written)
    one.look({1: {0.2: {"m": 0.7}}}, [1])
    one.look({1: {0.2: {"m": 0.2}}, 2: {0.2: {"m": 0.6}}}, [1, 2])  # 1 was decided
    assert written == [(1, 0.2)]
    assert memory["best"]["0.2"] == {"round": 1, "value": 0.7}


def told(no: int, device: str, value: float) -> EvaluationRow:
    return EvaluationRow(no, 0.2, device, 10, {}, {"m": value})


def test_a_round_is_judged_when_its_answers_are_in_and_not_by_the_first_few(
    tmp_path: Path,
) -> None:
    """Round 2 looks best by its first answer and is not: round 1 stays."""
    memory, written = Memory(), list[tuple[int, float]]()
    with closing(open_ledger(tmp_path / "run")) as ledger:
        end = RunEnd.__new__(RunEnd)
        end._ledger, end._evaluator = ledger, SimpleNamespace(scores=False)
        end._best = best(memory, BestRule("m", True), written)

        def close(no: int) -> None:
            ledger.plan_round(no, goal=2, quorum=1, rate=0.1, base="")
            rows = [
                TaskRow(f"{no}-{d}", no, d, 0.2, TaskPhase.ASSIGNED, b"", 1)
                for d in ("pi-1", "pi-2")
            ]
            ledger.issue_tasks(no, rows)

        for no in (1, 2):
            close(no)
            ledger.finish(no, model=f"round-{no}")
        ledger.record_evaluation(told(1, "pi-1", 0.8))
        ledger.record_evaluation(told(1, "", 0.8))
        end._look()
        assert not written  # pi-2 has not answered
        ledger.record_evaluation(told(1, "pi-2", 0.6))
        ledger.record_evaluation(told(1, "", 0.7))
        end._look()
        assert memory["best"]["0.2"] == {"round": 1, "value": 0.7}
        close(3)
        ledger.record_evaluation(told(2, "pi-1", 0.9))
        ledger.record_evaluation(told(2, "", 0.9))
        end._look()
        ledger.finish(3, model="round-3")
        end._look()
        ledger.record_evaluation(told(2, "pi-2", 0.1))
        ledger.record_evaluation(told(2, "", 0.5))
        end._look()
        assert written == [(1, 0.2)]
        close(4)
        ledger.record_evaluation(told(3, "", 0.75))
        ledger.finish(4, model="round-4")
        end._look()
        assert written == [(1, 0.2)]  # nobody has told of round 3 yet
        end._look(waits=False)  # the end of the run
        assert written == [(1, 0.2), (3, 0.2)]
