"""Rounds, tasks and devices joined for people, never for decisions."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from coordinator.ledger.folding import FoldedPages
from edge_sdk.json_text import floats_from_json

__all__ = ["HistoryPages"]

# What a task's answer was, beside the task; an open or failed task has none.
TASKS = """
SELECT t.round, t.device, t.density, t.phase, t.why, t.base_bytes AS down_bytes,
  t.order_bytes, u.size AS up_bytes, u.examples, u.metrics, u.accepted
FROM tasks t LEFT JOIN updates u ON u.task = t.id
"""
ROUNDS = """
SELECT r.*, coalesce(t.asked, 0) AS asked, coalesce(u.accepted, 0) AS accepted,
  coalesce(u.up, 0) AS up_bytes, coalesce(t.down, 0) AS down_bytes FROM rounds r
LEFT JOIN (SELECT round, sum(base_bytes) AS down, count(*) AS asked FROM tasks
  GROUP BY round) t ON t.round = r.no
LEFT JOIN (SELECT round, sum(size) AS up, count(*) AS accepted FROM updates
  GROUP BY round) u ON u.round = r.no
ORDER BY r.no
"""
EXAMPLES = """
SELECT t.device, t.density, sum(u.examples) AS examples
FROM tasks t JOIN updates u ON u.task = t.id WHERE t.round > 0
GROUP BY t.device, t.density
"""


PARTS = """
SELECT t.device, count(*) AS asked, count(u.task) AS trained, max(u.round) AS last,
  '' AS why
FROM tasks t LEFT JOIN updates u ON u.task = t.id AND u.frozen = 1
  AND u.round IN (SELECT no FROM rounds WHERE phase = 'done')
WHERE t.round > 0 GROUP BY t.device
"""


class HistoryPages(FoldedPages):
    """The part of the ledger that pages and reports are made from."""

    def data_version(self) -> int:
        """A number that differs once another connection has committed."""
        return int(self._db.execute("PRAGMA data_version").fetchone()[0])

    def round_history(self) -> list[dict[str, Any]]:
        """Every round, with the updates accepted and the bytes of both ways."""
        return [dict(row) for row in self._db.execute(ROUNDS)]

    def frozen_counts(self) -> dict[int, int]:
        """Number of updates in each round's model."""
        rows = self._db.execute(
            "SELECT r.no, count(u.task) AS n FROM rounds r LEFT JOIN updates u "
            "ON u.round = r.no AND u.frozen = 1 GROUP BY r.no ORDER BY r.no"
        ).fetchall()
        return {row["no"]: row["n"] for row in rows}

    def parts(self) -> dict[str, dict[str, Any]]:
        """Rounds of each device: asked, trained, last and why; the warm-up aside.

        ``why`` is of a task that was refused or failed, if one was.
        """
        found = {row["device"]: dict(row) for row in self._db.execute(PARTS)}
        for row in self._db.execute(
            # SQLite takes `why` from the row of the maximum.
            "SELECT device, why, max(round) FROM tasks WHERE why != '' AND round > 0 "
            "GROUP BY device"
        ):
            found[row["device"]]["why"] = row["why"]
        for old in self.folded_devices():
            one = found.setdefault(str(old["device"]), {"why": "", "last": None})
            for name in ("asked", "trained"):
                one[name] = one.get(name, 0) + old[name]
            one["last"] = one["last"] or old["last"] or None
        return found

    def examples_trained(self) -> list[dict[str, Any]]:
        """Examples of all accepted updates by device and density; the warm-up aside."""
        found = {(r[0], r[1]): r[2] for r in self._db.execute(EXAMPLES)}
        for old in self.folded_devices():
            key = old["device"], old["density"]
            found[key] = found.get(key, 0) + old["examples"]
        names = "device", "density", "examples"
        return [dict(zip(names, (*k, n), strict=True)) for k, n in found.items()]

    def tasks_of_round(self, no: int) -> list[dict[str, Any]]:
        """A round's tasks by device, each with its update if there is one."""
        return _with_metrics(
            self._db.execute(f"{TASKS} WHERE t.round = ? ORDER BY t.device", (no,))
        )

    def tasks_of_device(self, name: str) -> list[dict[str, Any]]:
        """A device's tasks, the newest first, each with its update."""
        return _with_metrics(
            self._db.execute(
                f"{TASKS} WHERE t.device = ? ORDER BY t.round DESC", (name,)
            )
        )


def _with_metrics(rows: Iterable[Any]) -> list[dict[str, Any]]:
    return [
        dict(row) | {"metrics": floats_from_json(row["metrics"] or "{}")}
        for row in rows
    ]
