from __future__ import annotations

from protocol import diagrams

from coordinator.rounds import state as rounds
from edge_sdk import session


def test_the_diagrams_in_the_documents_are_those_of_the_tables() -> None:
    """`python tests/protocol/diagrams.py --write` draws them again."""
    text = diagrams.DOCUMENT.read_text(encoding="utf-8")
    assert diagrams.render(text) == text


def test_every_phase_and_every_event_that_does_something_is_drawn() -> None:
    text = diagrams.DOCUMENT.read_text(encoding="utf-8")
    for phase in (*session.SessionPhase, *rounds.RoundPhase):
        assert phase.name in text
    does = {rule.__name__ for rule in session.NEXT.values()} - {"_stay"}
    assert len(does) >= 9
    for (_, event), rule in session.NEXT.items():
        if rule.__name__ != "_stay":
            assert event.__name__ in text, event


def test_a_table_that_changes_changes_its_diagram() -> None:
    phases = ("IDLE", "FETCH", "TRAIN")
    one = diagrams.drawn({("IDLE", "TaskOrder", "FETCH")}, phases)
    other = diagrams.drawn({("IDLE", "TaskOrder", "TRAIN")}, phases)
    assert one != other
    assert "| from | to FETCH |" in one
    assert "| **IDLE** | TaskOrder |" in one
