"""Records of rounds in the log: tasks as given out, and what became of each."""

from __future__ import annotations

import base64
import sqlite3
from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import Any

from coordinator.ledger.log.pages import LogPages, SignedOffer
from coordinator.ledger.rows import TaskRow
from coordinator.ledger.secure_pages import SECURE_SUM
from coordinator.rounds.state import RoundPhase
from edge_sdk.json_text import floats_from_json
from edge_sdk.proof.chain import record_line
from edge_sdk.sparse import Mask

__all__ = ["RoundRecords"]

_RESULTS = """
SELECT t.id, t.device, t.density, t.phase, t.why, u.blob, u.size, u.examples, u.norm,
  u.metrics, u.frozen, u.scale, u.weight, o.packet, o.certificate
FROM tasks t LEFT JOIN updates u ON u.task = t.id LEFT JOIN offers o ON o.task = t.id
WHERE t.round = ? ORDER BY t.device
"""


class RoundRecords(LogPages):
    """The part of the log about rounds: opened, answered, ended."""

    def _log_round(
        self,
        db: sqlite3.Connection,
        no: int,
        tasks: Sequence[TaskRow],
        masks: Mapping[str, Mask],
    ) -> None:
        leaves = _order_leaves(tasks, masks)
        row = db.execute("SELECT * FROM rounds WHERE no = ?", (no,)).fetchone()
        base = row["base"] or ("round-00000.safetensors" if no else "")
        self._named_again(db, self._named.values())
        told = {
            "goal": row["goal"],
            "quorum": row["quorum"],
            "base": self.get(f"sha256 of {base}") or "",
        }
        self._append(db, "round", no, {**told, **self._named}, leaves)

    def _keep_offer(
        self, db: sqlite3.Connection, task: str, blob: str, signed: SignedOffer
    ) -> None:
        """Keep a device's word on the update that was accepted for a task."""
        if not self._federation:
            return
        db.execute(
            "INSERT INTO offers SELECT ?, ?, ? WHERE EXISTS ("
            "SELECT 1 FROM updates WHERE task = ? AND blob = ?) ON CONFLICT DO NOTHING",
            (task, signed.packet, self._content(db, signed.certificate), task, blob),
        )

    def _log_end(
        self,
        db: sqlite3.Connection,
        no: int,
        phase: RoundPhase,
        model: str | None,
        note: str,
    ) -> None:
        leaves, counted, named = _result_leaves(db, no)
        self._named_again(db, named)
        told: dict[str, Any] = {"counted": counted, "note": note}
        made = phase is RoundPhase.DONE
        if made:
            told["model"] = self.get(f"sha256 of {model}") or ""
            told["masks"] = self.get(f"sha256 of round-{no:05d}.masks") or ""
            summed = self.get(SECURE_SUM)
            if summed is not None and summed["round"] == no:
                told["sum"] = {name: summed[name] for name in ("means", "unmasking")}
        self._append(db, "model" if made else "aborted", no, told, leaves)
        if no or made:  # evidence of a warm-up that is tried again still counts
            db.execute("DELETE FROM offers")


def _order_leaves(tasks: Sequence[TaskRow], masks: Mapping[str, Mask]) -> list[bytes]:
    """One leaf per task that is given out, by device.

    Args:
        tasks: Of one round.
        masks: Device to its mask; none where they are not known.
    """
    return [
        record_line(
            {
                "task": task.id,
                "device": task.device,
                "density": task.density,
                "mask": masks[task.device].digest.hex() if masks else "",
                "order": sha256(task.order_bytes).hexdigest(),
            }
        )
        for task in sorted(tasks, key=lambda one: one.device)
    ]


def _result_leaves(
    db: sqlite3.Connection, no: int
) -> tuple[list[bytes], int, frozenset[str]]:
    """One leaf per task of a round that ends, by device.

    Returns:
        The leaves; how many updates count; digests of the certificates they name.
    """
    leaves, counted, named = [], 0, set()
    for row in db.execute(_RESULTS, (no,)):
        told = {
            "task": row["id"],
            "device": row["device"],
            "density": row["density"],
            "phase": row["phase"],
            "why": row["why"],
        }
        if row["blob"] is not None:
            counts = bool(row["frozen"])
            counted += counts
            told |= {
                "update": row["blob"],
                "size": row["size"],
                "examples": row["examples"],
                "norm": row["norm"],
                "metrics": floats_from_json(row["metrics"]),
                "counted": counts,
                "scale": row["scale"],
                "weight": row["weight"],
            }
        if row["packet"] is not None:
            named.add(row["certificate"])
            told |= {
                "offer": base64.b64encode(row["packet"]).decode("ascii"),
                "certificate": row["certificate"],
            }
        leaves.append(record_line(told))
    return leaves, counted, frozenset(named)
