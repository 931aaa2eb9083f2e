"""Evaluations on devices in the ledger: sums of each, and of all together."""

from __future__ import annotations

import json

from coordinator.ledger.commits import now
from coordinator.ledger.device_rows import TOGETHER, EvaluationRow, read
from coordinator.ledger.log.pages import LogPages
from coordinator.ledger.rows import TaskRow
from edge_sdk.json_text import floats_from_json, to_json

__all__ = ["EvaluationPages"]


WORSE, MARKS = "worse", 100  # rounds whose marks are kept


class EvaluationPages(LogPages):
    """The ledger's table of evaluations; one of 0.1.0 has none until it is written."""

    def record_evaluation(self, row: EvaluationRow) -> None:
        """Records an answer; the same one again changes nothing."""
        with self._commits.joined() as db:
            db.execute(
                "REPLACE INTO evaluations VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    *(row.round, row.density, row.device, row.examples),
                    to_json({k: list(v) for k, v in row.sums.items()}),
                    *(to_json(dict(row.metrics)), row.why, now()),
                ),
            )
            if row.device == TOGETHER:
                told = {"density": row.density, "examples": row.examples}
                metrics = {"metrics": dict(row.metrics)}
                self._append(db, "tests", row.round, {**told, **metrics})

    def evaluations(
        self, round_no: int | None = None, device: str | None = None
    ) -> list[EvaluationRow]:
        """Answers by round, density and device; those together have no device.

        Args:
            round_no: Of one round's model alone.
            device: Of one device alone.
        """
        if not self._has_evaluations():
            return []
        rows = self._db.execute(
            "SELECT * FROM evaluations WHERE round = coalesce(?, round) "
            "AND device = coalesce(?, device) ORDER BY round, density, device",
            (round_no, device),
        )
        return [
            EvaluationRow(
                *(row["round"], row["density"], row["device"], row["examples"]),
                json.loads(row["sums"]),
                floats_from_json(row["metrics"]),
                row["why"],
            )
            for row in rows
        ]

    def evaluation_values(self) -> list[EvaluationRow]:
        """All answers without their sums, for displays."""
        if not self._has_evaluations():
            return []
        rows = self._db.execute(
            "SELECT round, density, device, examples, metrics, why FROM evaluations "
            "ORDER BY round, density, device"
        )
        return [
            EvaluationRow(
                *(row["round"], row["density"], row["device"], row["examples"]),
                *({}, floats_from_json(row["metrics"]), row["why"]),
            )
            for row in rows
        ]

    def has_evaluated(self, round_no: int, device: str) -> bool:
        """Return whether a device has answered about a round's model."""
        return self._has_evaluations() and bool(
            self._db.execute(
                "SELECT 1 FROM evaluations WHERE round = ? AND device = ?",
                (round_no, device),
            ).fetchone()
        )

    def mark_worse(self, round_no: int, where: str, why: str) -> None:
        """Notes that a round's model is worse than the one before; "" takes it back."""
        marks: dict[str, dict[str, str]] = self.get(WORSE) or {}
        mine = {k: v for k, v in marks.get(str(round_no), {}).items() if k != where}
        if why:
            mine[where] = why
        if mine == marks.get(str(round_no), {}):
            return
        marks[str(round_no)] = mine
        newest = sorted(marks, key=int)[-MARKS:]
        self.put(WORSE, {no: marks[no] for no in newest if marks[no]})

    def worse(self, round_no: int) -> str:
        """The reason why a round's model is marked as worse; empty if it is not."""
        found = (self.get(WORSE) or {}).get(str(round_no), {})
        return "; ".join(f"{where}: {why}" for where, why in sorted(found.items()))

    def last_task(self, device: str) -> TaskRow | None:
        """A device's accepted task of the last round or the one before; else None.

        The broker keeps what older ones began with no more.
        """
        row = self._db.execute(
            "SELECT t.* FROM tasks t JOIN updates u ON u.task = t.id "
            "WHERE t.device = ? AND t.round >= (SELECT max(no) FROM rounds) - 1 "
            "ORDER BY t.round DESC LIMIT 1",
            (device,),
        ).fetchone()
        return None if row is None else read(TaskRow, row, round_no=row["round"])

    def _has_evaluations(self) -> bool:
        """Return whether the table is there: who only reads makes none."""
        return (
            self._db.execute(
                "SELECT 1 FROM sqlite_master WHERE name = 'evaluations'"
            ).fetchone()
            is not None
        )
