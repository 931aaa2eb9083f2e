"""Groups of messages: when one ends, and what shares its commit."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from coordinator.ledger import open_ledger
from coordinator.protocol.events import EventQueue, MessageGroups, TransportConnected


def test_a_group_goes_on_with_what_comes_in_a_lull() -> None:
    queue, asked = EventQueue(lambda: 0.0), list[int]()
    queue.put(TransportConnected())

    def lull() -> float:
        asked.append(1)
        if len(asked) == 1:
            queue.put(TransportConnected())
            return 30.0
        return 0.0

    assert len(list(queue.group(30.0, lull))) == 2
    assert len(asked) == 2


def test_the_last_receipts_of_a_round_wait_for_its_freeze(tmp_path: Path) -> None:
    with closing(open_ledger(tmp_path)) as ledger:
        queue, over = EventQueue(lambda: 0.0), [True]
        told = list[str]()

        def handle(_item: object) -> None:
            ledger.refuse("pi-1", 1, "late", "")
            ledger.once_durable(lambda: told.append("receipt"))

        groups = MessageGroups(queue, ledger, handle, lambda: over[0], lambda: 0.0)
        for _ in range(3):
            queue.put(TransportConnected())
        groups.take(30.0)
        assert (ledger.promised, told) == (1, [])  # it stopped at the message
        over[0] = False
        groups.take(30.0)
        assert told == ["receipt"] * 3


def test_what_is_written_together_shares_the_next_commit(tmp_path: Path) -> None:
    with closing(open_ledger(tmp_path)) as ledger:
        ledger.settle()
        with closing(sqlite3.connect(tmp_path / "ledger.sqlite")) as others:

            def seen() -> list[str]:
                found = others.execute("SELECT key FROM meta WHERE key IN ('a', 'b')")
                return [key for (key,) in found]

            with ledger.together():
                ledger.put("a", 1)
                assert ledger.get("a") == 1
                assert seen() == []
            ledger.put("b", 1)
            assert seen() == ["a", "b"]
