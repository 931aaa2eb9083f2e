"""Groups of messages: when one ends, and what shares its commit."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from coordinator.ledger import open_ledger
from coordinator.protocol.events import (
    GROUP_S,
    LULL_S,
    EventQueue,
    Item,
    MessageGroups,
    TransportConnected,
)


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

        groups = MessageGroups(
            *(queue, ledger, handle, lambda: over[0], lambda: False, lambda: 0.0)
        )
        for _ in range(3):
            queue.put(TransportConnected())
        groups.take(30.0)
        assert (ledger.promised, told) == (1, [])  # it stopped at the message
        over[0] = False
        groups.take(30.0)
        assert told == ["receipt"] * 3


def test_receipts_share_a_commit_while_devices_send(tmp_path: Path) -> None:
    """A group waits for what is on its way, for no longer than a group may take."""
    now, sending = [0.0], [True]

    class Waited(EventQueue):
        def take(self, timeout: float) -> Item | None:
            item = super().take(0.0)
            if item is None:
                now[0] += timeout
                sending[0] = now[0] < GROUP_S / 2
                if timeout and sending[0]:
                    return TransportConnected()
            return item

    with closing(open_ledger(tmp_path)) as ledger:
        queue, told = Waited(lambda: now[0]), list[float]()

        def handle(_item: object) -> None:
            ledger.refuse("pi-1", 1, "late", "")
            ledger.once_durable(lambda: told.append(now[0]))

        groups = MessageGroups(
            *(queue, ledger, handle, lambda: False, lambda: sending[0]), lambda: now[0]
        )
        queue.put(TransportConnected())
        groups.take(30.0)
        assert told == [GROUP_S]
        queue.put(TransportConnected())
        groups.take(30.0)
        assert told[1] == pytest.approx(GROUP_S + LULL_S)


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
