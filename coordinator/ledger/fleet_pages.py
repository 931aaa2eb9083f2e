"""Devices, their refusals and scores in the ledger: what people look at.

No round is decided by these, so none of them costs a commit of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from coordinator.ledger.commits import now
from coordinator.ledger.device_rows import KINDS, REFUSED, DeviceRow, RefusalRow, read
from coordinator.ledger.log.pages import LogPages
from edge_sdk.json_text import floats_from_json, to_json

__all__ = ["FleetPages"]

D = TypeVar("D", bound=DeviceRow)
# How a new value meets the old one; any other takes its place.
MEETS = {
    **dict.fromkeys(("sent", "received", "rss_mib"), "max({0}, ?)"),
    "engine": "coalesce(nullif(?, ''), {0})",
}
# SQLite parses the profile: in Python that took a quarter of the coordinator's time
# with 600 devices, as this is asked a few times a second.
DEVICES = f"""
SELECT d.*, d.progress / 1000.0 AS progress_share,
  CASE WHEN json_valid(d.profile) THEN
    coalesce(json_extract(d.profile, '$.board'), '') ELSE '' END AS board,
  coalesce((SELECT sum(count) FROM refusals WHERE device = d.name
    AND verdict NOT IN ({", ".join(f"'{verdict}'" for verdict in KINDS)})), 0)
    AS refused,
  coalesce((SELECT phase FROM tasks WHERE device = d.name AND round = (
    SELECT min(no) FROM rounds WHERE phase NOT IN ('done', 'aborted'))), '') AS task
FROM devices d ORDER BY d.name
"""  # noqa: S608 - words of our own


class FleetPages(LogPages):
    """The ledger's tables of devices, refusals and scores."""

    def see_device(
        self,
        name: str,
        *,
        profile: Mapping[str, Any],
        examples: int,
        version: str,
        said: str = "",
        consent: str = "",
    ) -> bool:
        """Record a device's HELLO.

        Args:
            name: Its name.
            profile: As it says.
            examples: How many it has.
            version: Of its agent.
            said: A digest of all that it says of itself.
            consent: What its data's people have agreed to; empty if it is not told.

        Returns:
            Whether it said the same before.
        """
        with self._commits.joined() as db:
            db.execute(
                "INSERT INTO devices "
                "(name, profile, examples, version, last_seen, consent) "
                "VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (name) DO UPDATE SET "
                "profile = excluded.profile, examples = excluded.examples, "
                "version = excluded.version, last_seen = excluded.last_seen, "
                "consent = excluded.consent",
                (name, to_json(profile), examples, version, now(), consent),
            )
            same = db.execute(
                "SELECT 1 FROM standing WHERE device = ? AND said = ?", (name, said)
            ).fetchone()
            if same is None:
                db.execute(
                    "INSERT INTO standing (device, joined, said) "
                    "SELECT ?, coalesce(max(no) + 1, 0), ? FROM rounds WHERE true "
                    "ON CONFLICT (device) DO UPDATE SET said = excluded.said",
                    (name, said),
                )
        return same is not None

    def assign(self, name: str, density: float | None, why: str) -> None:
        """Record a device's density, and why it has it."""
        said = density, why, name
        self._commits.write(
            "UPDATE devices SET density = ?, why = ? WHERE name = ?", *said
        )

    def pace(self, name: str, why: str) -> None:
        """Record why a device does only a part of a round; "" while it does all."""
        self._commits.write("UPDATE devices SET pace = ? WHERE name = ?", why, name)

    def note(self, name: str, said: str) -> None:
        """Record what a device says it waits for; "" while it works."""
        self._commits.write("UPDATE devices SET note = ? WHERE name = ?", said, name)

    def note_test(self, name: str, why: str) -> None:
        """Record why a device's last test lacks something; "" where it is whole."""
        sets = "UPDATE devices SET test_error = ? WHERE name = ?"
        self._commits.write(sets, why or None, name)

    def note_of(self, name: str) -> str:
        """The reason to wait that a device gave last."""
        row = self._db.execute(
            "SELECT note FROM devices WHERE name = ?", (name,)
        ).fetchone()
        return "" if row is None else str(row["note"])

    def stand(self, name: str, failures: float, until: int | None, why: str) -> None:
        """Record a device's failures in a row, and until which round it sits out."""
        self._commits.write(
            "INSERT INTO standing (device, joined, failures, until, why) "
            "VALUES (?, 0, ?, ?, ?) ON CONFLICT (device) DO UPDATE SET "
            "failures = excluded.failures, until = excluded.until, why = excluded.why",
            *(name, failures, until, why),
        )

    def standing(self) -> dict[str, dict[str, Any]]:
        """Standing of each device: joined, failures, until, why; none in 0.1.0."""
        known = self._db.execute(
            "SELECT 1 FROM sqlite_master WHERE name = 'standing'"
        ).fetchone()
        rows = self._db.execute("SELECT * FROM standing") if known else ()
        return {row["device"]: dict(row) for row in rows}

    def peaks(self) -> dict[str, float]:
        """Most memory that each device reported with an update, MiB."""
        rows = self._db.execute(
            "SELECT device, max(json_extract(metrics, '$.peak_mib')) AS peak "
            "FROM updates WHERE json_valid(metrics) GROUP BY device"
        ).fetchall()
        return {r["device"]: float(r["peak"]) for r in rows if r["peak"] is not None}

    def count_traffic(self, name: str, **said: object) -> None:
        """Record a device's status; bytes count since it was installed.

        Args:
            name: Its name.
            said: Columns of `DeviceRow`; ``progress`` in thousandths.
        """
        sets = [
            f"{column} = {MEETS.get(column, '?').format(column)}" for column in said
        ]
        self._commits.write(
            f"UPDATE devices SET {', '.join(sets)}, last_seen = ? WHERE name = ?",  # noqa: S608 - names of our own
            *(*said.values(), now(), name),
        )

    def first_report(self, name: str) -> str:
        """A device's first report on its data, JSON; empty before it."""
        return self._told(name, "data_first")

    def drift_of(self, name: str) -> str:
        """A device's drift in words, by its last report; empty within its band."""
        return self._told(name, "drift")

    def _told(self, name: str, column: str) -> str:
        row = self._db.execute(
            f"SELECT {column} AS told FROM devices WHERE name = ?",  # noqa: S608 - our own
            (name,),
        ).fetchone()
        return "" if row is None else str(row["told"] or "")

    def nobody_online(self) -> None:
        """Mark every device as offline until it, or its broker, says otherwise."""
        self._commits.write("UPDATE devices SET online = 0 WHERE online")

    def dismiss(self, name: str) -> None:
        """Mark a device as revoked until it is let in again."""
        with self._commits.joined() as db:
            row = db.execute("SELECT phase FROM devices WHERE name = ?", (name,))
            if (known := row.fetchone()) is not None and known["phase"] != "revoked":
                self._append(db, "revoked", 0, {"device": name})
            db.execute(
                "UPDATE devices SET online = 0, phase = 'revoked', note = '', "
                "progress = NULL WHERE name = ?",
                (name,),
            )

    def devices(self) -> list[DeviceRow]:
        """Every device ever seen, by name."""
        return self.devices_as(DeviceRow)

    def devices_as(self, kind: type[D]) -> list[D]:
        """Every device as a wider type, whose further fields have defaults."""
        return [
            read(kind, row, progress=row["progress_share"])
            for row in self._db.execute(DEVICES)
        ]

    def refused(self) -> list[RefusalRow]:
        """Counted verdicts of each device; late and bounded updates are among them."""
        rows = self._db.execute("SELECT * FROM refusals ORDER BY device, verdict")
        return [
            read(RefusalRow, row, kind=KINDS.get(row["verdict"], REFUSED))
            for row in rows
        ]

    def record_score(
        self, round_no: int, density: float, metrics: Mapping[str, float]
    ) -> None:
        """Record the metrics of one round's model at one density."""
        with self._commits.alone() as db:
            db.execute(
                "REPLACE INTO scores VALUES (?, ?, ?)",
                (round_no, density, to_json(dict(metrics))),
            )
            told = {"density": density, "metrics": dict(metrics)}
            self._append(db, "scores", round_no, told)

    def last_scored(self) -> int:
        """The last round with an evaluation; 0 before one."""
        row = self._db.execute("SELECT max(round) AS no FROM scores").fetchone()
        return int(row["no"] or 0)

    def scores(self, since: int = 0) -> dict[int, dict[float, dict[str, float]]]:
        """Every evaluation from a round on: round, density, metric."""
        found: dict[int, dict[float, dict[str, float]]] = {}
        for row in self._db.execute(
            "SELECT * FROM scores WHERE round >= ? ORDER BY round, density DESC",
            (since,),
        ):
            found.setdefault(row["round"], {})[row["density"]] = floats_from_json(
                row["metrics"]
            )
        return found
