"""Secure rounds in the ledger: what devices have sent, and what they were told."""

from __future__ import annotations

from coordinator.ledger.commits import Pages

__all__ = ["SecurePages"]


class SecurePages(Pages):
    """The ledger's table of secure rounds: one row for each device and kind."""

    def keep_secure(self, no: int, device: str, kind: str, content: bytes) -> bool:
        """Record what a device has sent, in the open group; True if it is the first."""
        with self._commits.joined() as db:
            done = db.execute(
                "INSERT INTO secure VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING",
                (no, device, kind, content),
            )
        return done.rowcount == 1

    def freeze_secure(self, no: int, kind: str, content: bytes) -> None:
        """Record what devices are told from now on, durably, before any is told."""
        with self._commits.alone() as db:
            db.execute(
                "INSERT INTO secure VALUES (?, '', ?, ?) ON CONFLICT DO NOTHING",
                (no, kind, content),
            )

    def secure(self, no: int) -> list[tuple[str, str, bytes]]:
        """(device, kind, content) of a round, by device."""
        rows = self._db.execute(
            "SELECT device, kind, content FROM secure WHERE round = ? ORDER BY device",
            (no,),
        ).fetchall()
        return [(row["device"], row["kind"], row["content"]) for row in rows]

    def forget_secure(self, before_round: int) -> None:
        """Deletes what earlier rounds' devices have sent: it is of no more use."""
        with self._commits.joined() as db:
            db.execute("DELETE FROM secure WHERE round < ?", (before_round,))
