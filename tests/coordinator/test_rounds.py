"""One round under every order of events."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from coordinator.rounds.state import (
    NEXT,
    Accepted,
    Acked,
    Deadline,
    Event,
    Failed,
    Freeze,
    GiveUp,
    Issue,
    Offered,
    Planned,
    Rejected,
    Round,
    RoundPhase,
    Selected,
    TaskPhase,
    advance,
    quorum_of,
)

OPEN = (TaskPhase.ASSIGNED, TaskPhase.ACKED, TaskPhase.OFFERED)
ENDED = (RoundPhase.DONE, RoundPhase.ABORTED)
NAMES = [f"pi-{i}" for i in range(6)]
about: list[type[Any]] = [Acked, Offered, Accepted, Rejected, Failed]
devices = st.sampled_from([*NAMES, "stranger"])


class Rounds(RuleBasedStateMachine):
    """One round; the set of accepted updates is remembered outside of it."""

    @initialize(
        cohort=st.lists(st.sampled_from(NAMES), min_size=1, unique=True),
        data=st.data(),
    )
    def open(self, cohort: list[str], data: st.DataObject) -> None:
        goal = data.draw(st.integers(1, len(cohort)))
        self.state = Round(1, goal, quorum_of(goal))
        self.accepted: set[str] = set()
        self.closed: list[object] = []
        self.rejected = 0
        self.cohort = cohort
        assert self.feed(Planned()) == ()
        assert self.feed(Selected(tuple(cohort))) == (Issue(tuple(cohort)),)

    def feed(self, event: Event) -> tuple[object, ...]:
        before = self.state
        self.state, effects = advance(before, event)
        for name, phase in before.tasks.items():
            if phase not in OPEN:
                assert self.state.tasks[name] == phase, "an ended task moved"
        if before.phase in ENDED:
            assert self.state == before
        self.closed += [e for e in effects if isinstance(e, Freeze | GiveUp)]
        return effects

    @rule(kind=st.sampled_from(about), device=devices)
    def a_device_speaks(self, kind: type, device: str) -> None:
        before = self.state
        self.feed(kind(device))
        running = before.phase is RoundPhase.RUN
        if kind is Accepted and running and before.tasks.get(device) in OPEN:
            self.accepted.add(device)
        if device == "stranger":
            assert self.state == before

    @rule(device=st.sampled_from(NAMES))
    def an_update_is_accepted(self, device: str) -> None:
        self.a_device_speaks(Accepted, device)

    @rule()
    def the_deadline_passes(self) -> None:
        before = self.state
        self.feed(Deadline())
        if before.phase is RoundPhase.RUN:
            enough = len(self.accepted) >= before.quorum
            assert self.state.phase is (
                RoundPhase.CLOSING if enough else RoundPhase.ABORTED
            )

    @precondition(lambda self: self.state.phase is RoundPhase.CLOSING)
    @rule()
    def the_ledger_notes_its_model(self) -> None:
        self.state = replace(self.state, phase=RoundPhase.DONE)

    @invariant()
    def accepted_never_leaves(self) -> None:
        in_it = {d for d, p in self.state.tasks.items() if p is TaskPhase.ACCEPTED}
        assert in_it == self.accepted
        assert set(self.state.tasks) == set(self.cohort)

    @invariant()
    def it_closes_exactly_once(self) -> None:
        over = self.state.phase in (RoundPhase.CLOSING, *ENDED)
        assert len(self.closed) == over
        if self.state.phase is RoundPhase.ABORTED:
            assert isinstance(self.closed[0], GiveUp)
            assert len(self.accepted) < self.state.quorum
        if self.state.phase in (RoundPhase.CLOSING, RoundPhase.DONE):
            assert isinstance(self.closed[0], Freeze)
            assert len(self.accepted) >= self.state.quorum

    @invariant()
    def it_waits_only_for_somebody(self) -> None:
        if self.state.phase is RoundPhase.RUN:
            assert self.state.count(*OPEN) > 0
            assert len(self.accepted) < self.state.goal


TestRounds = Rounds.TestCase
TestRounds.settings = settings(max_examples=150, stateful_step_count=25)


def running(goal: int, names: list[str]) -> Round:
    state, _ = advance(Round(1, goal, quorum_of(goal)), Planned())
    return advance(state, Selected(tuple(names)))[0]


def test_it_closes_at_its_goal_with_others_still_at_work() -> None:
    state = running(1, ["a1", "b1"])
    state, effects = advance(state, Accepted("a1"))
    assert (state.phase, effects) == (RoundPhase.CLOSING, (Freeze(),))
    assert advance(state, Accepted("b1")) == (state, ())
    assert advance(state, Deadline()) == (state, ())


def test_the_deadline_is_not_waited_for_when_nobody_is_left() -> None:
    state = running(2, ["a1", "b1"])
    state, _ = advance(state, Failed("a1"))
    state, effects = advance(state, Rejected("b1"))
    assert state.phase is RoundPhase.ABORTED
    assert effects == (
        GiveUp("no device is left to wait for with 0 of at least 1 updates"),
    )


def test_a_task_does_not_go_back() -> None:
    state = running(2, ["a1", "b1"])
    state, _ = advance(state, Offered("a1"))
    assert advance(state, Acked("a1"))[0].tasks["a1"] is TaskPhase.OFFERED


@given(st.integers(1, 100_000))
def test_the_quorum_is_seventy_percent_rounded_up_and_one_may_always_fail(
    goal: int,
) -> None:
    """In integers: 0.7 * goal in binary must not round to one more."""
    assert quorum_of(goal) == max(1, min(-(-7 * goal // 10), goal - 1))


def test_every_pair_of_phase_and_event_is_in_the_table_or_changes_nothing() -> None:
    for phase in RoundPhase:
        state = Round(1, 1, 1, phase, {"a1": TaskPhase.ASSIGNED})
        events: list[Event] = [Planned(), Deadline()]
        events += [kind("a1") for kind in about]
        for event in events:
            if (phase, type(event)) not in NEXT:
                assert advance(state, event) == (state, ())
    assert {phase for phase, _ in NEXT}.isdisjoint({RoundPhase.CLOSING, *ENDED})


@pytest.mark.parametrize("phase", list(RoundPhase))
def test_phases_are_named_as_the_ledger_has_them(phase: RoundPhase) -> None:
    assert RoundPhase(phase.value) is phase
