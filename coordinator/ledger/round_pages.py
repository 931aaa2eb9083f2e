"""Rounds, their tasks and their updates in the ledger: what models are made of."""

from __future__ import annotations

import sqlite3
import sys
from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from typing import TypeAlias

import msgspec

from coordinator.ledger.commits import now
from coordinator.ledger.device_rows import read
from coordinator.ledger.log.pages import SignedOffer
from coordinator.ledger.log.rounds import RoundRecords
from coordinator.ledger.rows import RoundRow, TaskRow, UpdateRow
from coordinator.rounds.contribution_limits import PAST, ContributionLimit
from coordinator.rounds.state import RoundPhase, TaskPhase
from edge_sdk.json_text import floats_from_json, to_json
from edge_sdk.sparse import Mask

__all__ = ["Limit", "RoundPages"]

Limit: TypeAlias = Callable[
    [Sequence[float], Sequence[int], Sequence[float]], Sequence[ContributionLimit]
]


class RoundPages(RoundRecords):
    """The ledger's tables of rounds, tasks and updates."""

    def plan_round(
        self, no: int, *, goal: int, quorum: int, rate: float, base: str
    ) -> None:
        """Record a new round in the open group; it replaces a plan without tasks.

        Nothing follows from a plan before its tasks are durable. A warm-up that was
        given up is opened again.
        """
        with self._commits.joined() as db:
            db.execute(
                "INSERT INTO rounds (no, phase, goal, quorum, rate, base, opened) "
                "VALUES (?, 'plan', ?, ?, ?, ?, ?) ON CONFLICT (no) DO UPDATE SET "
                "phase = 'plan', closed = NULL, opened = excluded.opened, "
                "goal = excluded.goal, quorum = excluded.quorum, rate = excluded.rate, "
                "base = excluded.base "
                "WHERE phase = 'plan' OR (no = 0 AND phase = 'aborted')",
                (no, goal, quorum, rate, base, now()),
            )

    def issue_tasks(
        self, no: int, tasks: list[TaskRow], masks: Mapping[str, Mask] | None = None
    ) -> None:
        """Record a round's tasks, before any is sent; `masks` are by device.

        A device's task of a warm-up's earlier attempt gives way to its new one.
        """
        self._commits.beside(lambda: self._updates.begin(no))
        with self._commits.alone() as db:
            db.executemany(
                "DELETE FROM tasks WHERE round = 0 AND round = ? AND device = ? "
                "AND phase IN ('expired', 'failed', 'rejected')",
                [(no, t.device) for t in tasks],
            )
            db.executemany(
                "INSERT INTO tasks (id, round, device, density, phase, order_bytes, "
                "base_bytes) VALUES (?, ?, ?, ?, ?, ?, ?)",
                [
                    (
                        *(t.id, no, t.device, t.density, t.phase.value),
                        *(t.order_bytes, t.base_bytes),
                    )
                    for t in tasks
                ],
            )
            db.execute("UPDATE rounds SET phase = 'run' WHERE no = ?", (no,))
            self._log_round(db, no, tasks, masks or {})

    def wait_until(self, no: int, seconds: float) -> None:
        """Record an open round's deadline, seconds from now, for displays."""
        value = to_json([no, now(seconds)])
        self._commits.write("REPLACE INTO meta VALUES ('deadline', ?)", value)

    def deadline_of(self, no: int) -> str | None:
        """The wall time of a round's deadline, in ISO 8601; None if none was noted."""
        found = self.get("deadline")
        return str(found[1]) if found is not None and found[0] == no else None

    def move_task(self, task_id: str, phase: TaskPhase, why: str = "") -> None:
        """Record a task's phase; joins the open group of writes."""
        self._commits.write(
            "UPDATE tasks SET phase = ?, why = ? WHERE id = ?",
            *(phase.value, why, task_id),
        )

    def accept(
        self,
        task: TaskRow,
        content: bytes,
        *,
        examples: int,
        norm: float,
        metrics: Mapping[str, float],
        signed: SignedOffer | None = None,
        blob: str = "",
    ) -> bool:
        """Record an accepted update in the open group: bytes, then row. Twice is once.

        `signed` is the device's word on it, for the log; `blob` is the content's
        SHA-256 in hex, where it is known.

        Returns:
            Whether the round has it: one that came after the freeze is late.

        Raises:
            StateError: If the disk refuses; nothing is promised then.
        """
        blob = blob or sha256(content).hexdigest()
        # Without a savepoint: what can be refused is refused before the first row.
        self._commits.begin()
        place = self._updates.append(task.round_no, content, blob)
        write = self._commits.write
        write(
            "INSERT INTO updates (task, round, device, blob, size, examples, norm, "
            "metrics, accepted, place) SELECT ?, ?, ?, ?, ?, ?, ?, ?, ?, ? "
            "WHERE (SELECT phase FROM rounds WHERE no = ?) = 'run' "
            "ON CONFLICT DO NOTHING",
            *(task.id, task.round_no, task.device, blob, len(content), examples, norm),
            msgspec.json.encode(metrics).decode(),  # finite, by the gate
            *(now(), place, task.round_no),
        )
        # Only with a row: a task that came after the freeze stays expired.
        done = write(
            "UPDATE tasks SET phase = 'accepted' WHERE id = ? "
            "AND EXISTS (SELECT 1 FROM updates WHERE task = ?)",
            *(task.id, task.id),
        )
        if signed is not None:
            with self._commits.joined() as db:
                self._keep_offer(db, task.id, blob, signed)
        return done.rowcount == 1

    def accepted_blob(self, task_id: str) -> str | None:
        """The blob accepted for a task, if any; perhaps not durable yet."""
        row = self._db.execute(
            "SELECT blob FROM updates WHERE task = ?", (task_id,)
        ).fetchone()
        return None if row is None else str(row["blob"])

    def freeze(self, no: int, limit: Limit | None = None) -> None:
        """Fix which updates are aggregated and their weights, in one transaction.

        Args:
            no: The round.
            limit: (norms, examples, norms of the last rounds) -> each one's share.
        """
        self._commits.beside(self._updates.sync)
        with self._commits.alone() as db:
            db.execute(
                "UPDATE updates SET frozen = 1, weight = examples WHERE round = ?",
                (no,),
            )
            if limit is not None:
                self._cut(no, limit)
            db.execute("UPDATE rounds SET phase = 'closing' WHERE no = ?", (no,))
            _expire(db, no)

    def _cut(self, no: int, limit: Limit) -> None:
        rows = self.frozen(no)
        past = self._db.execute(
            "SELECT norm FROM updates WHERE frozen = 1 AND round > 0 "
            "AND round BETWEEN ? AND ?",
            (no - PAST, no - 1),
        ).fetchall()
        norms, examples = [r.norm for r in rows], [r.examples for r in rows]
        found = limit(norms, examples, [row["norm"] for row in past])
        for row, share in zip(rows, found, strict=True):
            self._db.execute(
                "UPDATE updates SET scale = ?, weight = ? WHERE task = ?",
                (share.scale, share.weight, row.task),
            )
            if share.why:
                self.refuse(row.device, no, "clipped", share.why)

    def leave_out(
        self, no: int, devices: Sequence[str], why: str, limit: Limit | None
    ) -> None:
        """Take devices' updates out of a frozen round; the others are weighed anew."""
        with self._commits.alone() as db:
            for device in devices:
                db.execute(
                    "UPDATE updates SET frozen = 0, weight = 0 "
                    "WHERE round = ? AND device = ?",
                    (no, device),
                )
                db.execute(
                    "UPDATE tasks SET phase = 'rejected', why = ? "
                    "WHERE round = ? AND device = ?",
                    (why, no, device),
                )
                self.refuse(device, no, "rejected", why)
            db.execute(
                "UPDATE updates SET scale = 1, weight = examples "
                "WHERE round = ? AND frozen = 1",
                (no,),
            )
            if limit is not None:
                self._cut(no, limit)

    def refuse(self, device: str, round_no: int, verdict: str, why: str) -> None:
        """Count one verdict on a device's update; the last reason stays."""
        self._commits.write(
            "INSERT INTO refusals VALUES (?, ?, 1, ?, ?, ?) "
            "ON CONFLICT (device, verdict) DO UPDATE SET count = count + 1, "
            "round = excluded.round, why = excluded.why, at = excluded.at",
            *(device, verdict, round_no, why, now()),
        )

    def finish(self, no: int, *, model: str, note: str = "") -> None:
        """Close a round with its model, durable under this checkpoint name."""
        self._end(no, RoundPhase.DONE, model, note)

    def abort(self, no: int, why: str) -> None:
        """Close a round without a model."""
        self._end(no, RoundPhase.ABORTED, None, why)

    def _end(self, no: int, phase: RoundPhase, model: str | None, note: str) -> None:
        with self._commits.alone() as db:
            db.execute(
                "UPDATE rounds SET phase = ?, model = ?, note = ?, closed = ? "
                "WHERE no = ?",
                (phase.value, model, note, now(), no),
            )
            _expire(db, no)
            if phase is RoundPhase.ABORTED:  # no model is made of them
                db.execute("UPDATE updates SET frozen = 0 WHERE round = ?", (no,))
            self._log_end(db, no, phase, model, note)

    def rounds(self) -> list[RoundRow]:
        """Every round, in order."""
        rows = self._db.execute("SELECT * FROM rounds ORDER BY no").fetchall()
        return [read(RoundRow, row) for row in rows]

    def next_round(self) -> int:
        """The number of the round after the last that was opened."""
        row = self._db.execute("SELECT max(no) AS last FROM rounds").fetchone()
        return 0 if row["last"] is None else int(row["last"]) + 1

    def place(self, no: int) -> int:
        """Place of a round among those that give a model: 1, 2, ...; 0 of the warm-up.

        Rounds that were aborted have numbers, and no place.
        """
        return self.rounds_done(before=no) + 1 if no else 0

    def rounds_done(self, before: int = sys.maxsize) -> int:
        """Rounds that gave a model, the warm-up left out."""
        row = self._db.execute(
            "SELECT count(*) AS n FROM rounds "
            "WHERE no BETWEEN 1 AND ? AND phase = 'done'",
            (before - 1,),
        ).fetchone()
        return int(row["n"]) + int((self.get("folded") or {}).get("done", 0))

    def tasks(self, no: int) -> list[TaskRow]:
        """A round's tasks, by device."""
        rows = self._db.execute(
            "SELECT * FROM tasks WHERE round = ? ORDER BY device", (no,)
        ).fetchall()
        return [_task(row) for row in rows]

    def task(self, task_id: str) -> TaskRow | None:
        """One task."""
        row = self._db.execute(
            "SELECT * FROM tasks WHERE id = ?", (task_id,)
        ).fetchone()
        return None if row is None else _task(row)

    def frozen(self, no: int) -> list[UpdateRow]:
        """The updates of a closed round, sorted by device: what is aggregated."""
        rows = self._db.execute(
            "SELECT u.*, t.density FROM updates u JOIN tasks t ON t.id = u.task "
            "WHERE u.round = ? AND u.frozen = 1 ORDER BY u.device",
            (no,),
        ).fetchall()
        said = floats_from_json
        return [read(UpdateRow, r, metrics=said(r["metrics"])) for r in rows]


def _expire(db: sqlite3.Connection, no: int) -> None:
    db.execute(
        "UPDATE tasks SET phase = 'expired' WHERE round = ? "
        "AND phase IN ('assigned', 'acked', 'offered')",
        (no,),
    )


def _task(row: sqlite3.Row) -> TaskRow:
    return read(TaskRow, row, round_no=row["round"])
