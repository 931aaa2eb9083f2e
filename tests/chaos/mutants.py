"""Faults of thought, one patch each: what the checker or a named test has to catch.

Each is applied in the child before its `main` runs. A patched name that is gone is an
error: a mutant that mutates nothing would pass for caught or not at random.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

__all__ = ["MUTANTS"]


def receipt_before_commit() -> None:
    """A receipt is sent when the row is written, not when it is durable."""
    from coordinator.ledger.commits import Commits

    def promise_early(_self: Any, promise: Callable[[], None]) -> None:
        promise()
        time.sleep(0.2)  # so that it has left before the commit at which we die

    _replace(Commits, "once_durable", promise_early)


def running_sum_in_memory() -> None:
    """The aggregate is of what this process has accepted, not of the frozen rows."""
    from coordinator.ledger import Ledger
    from coordinator.server.global_model import GlobalModel

    held: set[str] = set()
    accept, grow = Ledger.accept, GlobalModel.grow

    def remember(self: Any, task: Any, *arguments: Any, **named: Any) -> Any:
        held.add(task.id)
        return accept(self, task, *arguments, **named)

    def grow_from_memory(self: Any, no: int, rows: Any) -> str:
        mine = [row for row in rows if row.task in held]
        return grow(self, no, mine or rows)

    _replace(Ledger, "accept", remember)
    _replace(GlobalModel, "grow", grow_from_memory)


def no_epoch_fence() -> None:
    """Devices hear coordinators of any epoch; two write one ledger, none yields."""
    from coordinator.ledger.commits import Commits
    from coordinator.protocol.announcements import CoordinatorAnnouncements
    from edge_sdk import session
    from edge_sdk.agent import effects as session_effects

    advance = session.advance

    def hear_all(now: session.Session, event: session.Event) -> session.Step:
        if isinstance(event, session.Heard):
            event = replace(event, epoch=max(event.epoch, now.epoch))
        return advance(now, event)

    _replace(session_effects, "advance", hear_all)
    begin = Commits._begin

    def begin_anyway(self: Any) -> None:
        self.epoch = None
        begin(self)

    _replace(Commits, "_begin", begin_anyway)
    _replace(CoordinatorAnnouncements, "_compare", lambda *_: None)


def no_signature_check() -> None:
    """Any signature is believed."""
    from edge_sdk.identity import signatures

    _replace(signatures, "_holds", lambda *_: True)


def _replace(owner: Any, name: str, value: object) -> None:
    if not hasattr(owner, name):
        raise AttributeError(f"{owner.__name__}.{name} is gone: tell tests/chaos")
    setattr(owner, name, value)


MUTANTS: Mapping[str, Callable[[], None]] = MappingProxyType(
    {
        "receipt-before-commit": receipt_before_commit,
        "running-sum-in-memory": running_sum_in_memory,
        "no-epoch-fence": no_epoch_fence,
        "no-signature-check": no_signature_check,
    }
)
