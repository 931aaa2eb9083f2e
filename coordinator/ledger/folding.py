"""Old rounds of a long run, folded into sums per device: the ledger stays small.

Folded are rounds that ended long ago, with tasks, updates and scores. Of each device
the last task that counted stays by name: its own memory goes on from there. The last
round that gave a model stays: the next one begins at it, however many were aborted.
"""

from __future__ import annotations

import msgspec

from coordinator.ledger.log.pages import LogPages
from edge_sdk.json_text import to_json

__all__ = ["FoldedPages", "FoldedRounds"]

_OLD = """
CREATE TEMP TABLE old AS SELECT no, phase FROM rounds
WHERE no > 0 AND no < ? AND phase IN ('done', 'aborted')
  AND no < (SELECT max(no) FROM rounds WHERE phase = 'done')
"""
# SQLite takes `task` from the row of the maximum.
_LAST = """
REPLACE INTO last_counted
SELECT u.device, max(u.round), u.task FROM updates u JOIN old o ON o.no = u.round
WHERE u.frozen = 1 AND o.phase = 'done' GROUP BY u.device
"""
_SUMS = """
INSERT INTO folded
SELECT t.device, t.density, count(*), count(u.task),
  sum(coalesce(u.frozen AND o.phase = 'done', 0)), coalesce(sum(u.examples), 0),
  coalesce(sum(u.size), 0), sum(t.base_bytes),
  max(CASE WHEN u.frozen AND o.phase = 'done' THEN t.round END)
FROM old o JOIN tasks t ON t.round = o.no LEFT JOIN updates u ON u.task = t.id
GROUP BY t.device, t.density
ON CONFLICT (device, density) DO UPDATE SET asked = asked + excluded.asked,
  accepted = accepted + excluded.accepted, trained = trained + excluded.trained,
  examples = examples + excluded.examples, up_bytes = up_bytes + excluded.up_bytes,
  down_bytes = down_bytes + excluded.down_bytes,
  last = max(coalesce(last, 0), coalesce(excluded.last, 0))
"""

_DELETES = {  # of one ledger or another
    "updates": "DELETE FROM updates WHERE round IN (SELECT no FROM old)",
    "tasks": "DELETE FROM tasks WHERE round IN (SELECT no FROM old)",
    "scores": "DELETE FROM scores WHERE round IN (SELECT no FROM old)",
    "evaluations": "DELETE FROM evaluations WHERE round IN (SELECT no FROM old)",
}


class FoldedRounds(msgspec.Struct, frozen=True):
    """Sums over the rounds that are in the ledger as sums alone.

    Attributes:
        done: Rounds that gave a model.
        aborted: Rounds without one.
        until: The last of them.
        asked: Tasks given out.
        accepted: Updates taken.
        bytes: Both ways.
    """

    done: int = 0
    aborted: int = 0
    until: int = 0
    asked: int = 0
    accepted: int = 0
    bytes: int = 0


class FoldedPages(LogPages):
    """The part of the ledger that holds sums of old rounds."""

    def fold(self, before: int) -> None:
        """Fold the rounds before one, in one transaction; none twice.

        Args:
            before: The first round that stays for its own sake.
        """
        if before <= 1:
            return
        with self._commits.alone() as db:
            db.execute("DROP TABLE IF EXISTS old")
            db.execute(_OLD, (before,))
            counts = dict(db.execute("SELECT phase, count(*) FROM old GROUP BY phase"))
            if counts:
                (until,) = db.execute("SELECT max(no) FROM old").fetchone()
                db.execute(_SUMS)
                db.execute(_LAST)
                known = self.folded()
                told = {
                    "done": known.done + counts.get("done", 0),
                    "aborted": known.aborted + counts.get("aborted", 0),
                    "until": max(known.until, until),
                }
                db.execute("REPLACE INTO meta VALUES ('folded', ?)", (to_json(told),))
            there = {r[0] for r in db.execute("SELECT name FROM sqlite_master")}
            for table, delete in _DELETES.items():
                if table in there:
                    db.execute(delete)
            db.execute("DELETE FROM rounds WHERE no IN (SELECT no FROM old)")
            # The digest of a checkpoint that was deleted long ago.
            db.execute(
                "DELETE FROM meta WHERE key GLOB 'sha256 of round-*.safetensors' "
                "AND key < ?",
                (f"sha256 of round-{before:05d}",),
            )
            db.execute("DROP TABLE old")
            self._fold_log(db, before)

    def last_asked(self) -> dict[str, int]:
        """Device -> the last round after the warm-up that it has a task of."""
        rows = self._db.execute(
            "SELECT device, max(round) AS no FROM tasks WHERE round > 0 GROUP BY device"
        )
        return {row["device"]: row["no"] for row in rows}

    def last_counted(self, before: int) -> dict[str, str]:
        """Device -> its last task whose update is in the model of an earlier round."""
        return {d: task for d, (task, _) in self._last_counted(before).items()}

    def rounds_counted(self) -> dict[str, int]:
        """Device -> the last round, the warm-up aside, whose model has its update."""
        return {d: no for d, (_, no) in self._last_counted(1 << 62).items()}

    def _last_counted(self, before: int) -> dict[str, tuple[str, int]]:
        rows = self._db.execute(
            "SELECT device, task, max(round) AS no FROM ("
            "SELECT u.device, u.task, u.round FROM updates u "
            "JOIN rounds r ON r.no = u.round "
            "WHERE u.frozen = 1 AND r.phase = 'done' AND u.round > 0 AND u.round < ? "
            "UNION ALL SELECT device, task, round FROM last_counted WHERE round < ?) "
            "GROUP BY device",
            (before, before),
        ).fetchall()
        return {row["device"]: (row["task"], row["no"]) for row in rows}

    def folded(self) -> FoldedRounds:
        """Sums over the rounds that were folded."""
        if not self._has_folded():
            return FoldedRounds()
        sums = self._db.execute(
            "SELECT coalesce(sum(asked), 0) AS asked, "
            "coalesce(sum(accepted), 0) AS accepted, "
            "coalesce(sum(up_bytes + down_bytes), 0) AS bytes FROM folded"
        ).fetchone()
        return FoldedRounds(**(self.get("folded") or {}), **dict(sums))

    def folded_devices(self) -> list[dict[str, object]]:
        """Sums of each device and density over the rounds that were folded."""
        if not self._has_folded():
            return []
        return [dict(row) for row in self._db.execute("SELECT * FROM folded")]

    def _has_folded(self) -> bool:
        """Return whether the ledger has the table: one of 0.1.0 has not."""
        found = self._db.execute("SELECT 1 FROM sqlite_master WHERE name = 'folded'")
        return found.fetchone() is not None
