"""Secure rounds in the ledger: what devices have sent, and what they were told."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from coordinator.ledger.commits import Pages
from edge_sdk.json_text import to_json
from edge_sdk.wire.codec import unpack

__all__ = ["SECURE_SUM", "SecurePages"]

SECURE_SUM = "secure_sum"  # the latest sum's key: its round, means, what unmasks it


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

    def known_identities(self, devices: Iterable[str]) -> dict[str, dict[str, bytes]]:
        """Device to the identities of others that it was told in rounds before."""
        found = {}
        for device in devices:
            row = self._db.execute(
                "SELECT content FROM secure WHERE round = 0 AND kind = 'known' "
                "AND device = ?",
                (device,),
            ).fetchone()
            if row is not None:
                found[device] = unpack(row["content"], dict[str, bytes])
        return found

    def note_identities(self, told: Mapping[str, Mapping[str, bytes]]) -> None:
        """Record the identities that devices are told, in the open group."""
        rows = [(device, msgspec.msgpack.encode(own)) for device, own in told.items()]
        with self._commits.joined() as db:
            db.executemany("REPLACE INTO secure VALUES (0, ?, 'known', ?)", rows)

    def forget_secure(self, before_round: int) -> None:
        """Delete what devices of earlier rounds have sent.

        What unmasks their sums lies beside the updates, and goes when these do.
        """
        with self._commits.joined() as db:
            db.execute(
                "DELETE FROM secure WHERE round < ? AND kind NOT IN ('sum', 'known')",
                (before_round,),
            )

    def keep_sum(self, no: int, means: Sequence[Sequence[object]], blob: str) -> None:
        """Record the sum of a round's masked updates, durably.

        Args:
            no: The round.
            means: Density, name of the blob with the mean at it, its weight.
            blob: Name of what unmasks the sum.
        """
        told = {"round": no, "means": means, "unmasking": blob}
        names = msgspec.json.encode([*(mean[1] for mean in means), blob])
        with self._commits.alone() as db:
            db.execute("REPLACE INTO meta VALUES (?, ?)", (SECURE_SUM, to_json(told)))
            db.execute("REPLACE INTO secure VALUES (?, '', 'sum', ?)", (no, names))

    def forget_blobs(self, before_round: int) -> None:
        """Delete the blobs of rounds long done, updates and sums; updates' rows stay.

        Args:
            before_round: The first whose blobs stay.
        """
        rows = self._db.execute(
            "SELECT blob FROM updates WHERE round < ? AND place IS NULL EXCEPT "
            "SELECT blob FROM updates WHERE round >= ? AND place IS NULL",
            (before_round, before_round),
        ).fetchall()
        sums = self._db.execute(
            "SELECT content FROM secure WHERE kind = 'sum' AND round < ?",
            (before_round,),
        ).fetchall()
        names = [str(row["blob"]) for row in rows]
        for row in sums:
            names += msgspec.json.decode(row["content"], type=list[str])
        for name in names:
            self._blobs.forget(name)
        self._updates.forget(before_round)
        if sums:
            with self._commits.joined() as db:
                db.execute(
                    "DELETE FROM secure WHERE round < ? AND kind != 'known'",
                    (before_round,),
                )
