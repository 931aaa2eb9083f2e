"""The identity store of a run: one SQLite file of mode 0600, read and written by all.

The commands `enroll`, `revoke` and `rotate` write it while a coordinator runs; every
write raises `version`, which the coordinator watches. Tokens are kept as SHA-256.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from coordinator.identity.policy import TokenRow
from coordinator.ledger.database import database_error
from edge_sdk.errors import StateError, disk_remedy
from edge_sdk.private_files import make_private, private_file

__all__ = ["CertificateRow", "IdentityStore", "SigningRow"]

FILE = "identity.sqlite"
SCHEMA = """
CREATE TABLE IF NOT EXISTS facts (key TEXT PRIMARY KEY, value BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS tokens (
  hash BLOB PRIMARY KEY, name TEXT NOT NULL, until INTEGER NOT NULL, key BLOB);
CREATE TABLE IF NOT EXISTS certificates (
  no INTEGER PRIMARY KEY, name TEXT NOT NULL, key BLOB NOT NULL, der BLOB NOT NULL,
  serial TEXT NOT NULL, until INTEGER NOT NULL, revoked TEXT);
CREATE TABLE IF NOT EXISTS signing (
  number INTEGER PRIMARY KEY, public BLOB NOT NULL, private BLOB, notice BLOB);
"""


@dataclass(frozen=True, slots=True)
class CertificateRow:
    """A certificate as issued; `revoked` says why, or is None."""

    name: str
    key: bytes
    der: bytes
    serial: int
    until: int
    revoked: str | None


@dataclass(frozen=True, slots=True)
class SigningRow:
    """A key that signed, or signs, messages; `notice` announced it under the last."""

    number: int
    public: bytes
    private: bytes | None
    notice: bytes | None


class IdentityStore:
    """The store in a run's folder; made on first use.

    Raises:
        StateError: If it cannot be made or used.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE
        try:
            make_private(folder)
            private_file(self.path)
            self.path.chmod(0o600)
        except OSError as error:
            raise StateError(
                f"{self.path} cannot be made: {error}", remedy=disk_remedy(error)
            ) from error
        with self._open() as db:
            db.executescript(SCHEMA)

    @staticmethod
    def exists(folder: Path) -> bool:
        """Return whether a run has an identity store."""
        return (folder / FILE).exists()

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        # One connection per use: several threads and processes come here, seldom.
        db = None
        try:
            db = sqlite3.connect(self.path, isolation_level=None, timeout=10)
            db.row_factory = sqlite3.Row
            db.execute("PRAGMA synchronous = FULL")
            db.execute("PRAGMA secure_delete = ON")  # keys that are replaced are gone
            yield db
        except sqlite3.Error as error:
            raise database_error(self.path, error) from error
        finally:
            if db is not None:
                db.close()

    @contextmanager
    def _write(self) -> Iterator[sqlite3.Connection]:
        with self._open() as db:
            db.execute("BEGIN IMMEDIATE")
            try:
                yield db
                db.execute(
                    "INSERT INTO facts VALUES ('version', 1) ON CONFLICT (key) "
                    "DO UPDATE SET value = value + 1"
                )
                db.execute("COMMIT")
            except BaseException:
                if db.in_transaction:
                    db.execute("ROLLBACK")
                raise

    # -- facts -------------------------------------------------------------------------

    def version(self) -> int:
        """Grows with every write."""
        return int(self.fact("version") or 0)

    def fact(self, key: str) -> bytes | None:
        """A stored value."""
        with self._open() as db:
            row = db.execute("SELECT value FROM facts WHERE key = ?", (key,)).fetchone()
        return None if row is None else row["value"]

    def put_fact(self, key: str, value: bytes) -> None:
        """Stores a value."""
        with self._write() as db:
            db.execute("REPLACE INTO facts VALUES (?, ?)", (key, value))

    def found(
        self, authority: bytes, authority_key: bytes, signing: SigningRow
    ) -> None:
        """Keeps a new authority and the first signing key, unless there are some."""
        with self._write() as db:
            if db.execute("SELECT 1 FROM facts WHERE key = 'authority'").fetchone():
                return
            db.execute("REPLACE INTO facts VALUES ('authority', ?)", (authority,))
            db.execute(
                "REPLACE INTO facts VALUES ('authority key', ?)", (authority_key,)
            )
            db.execute(
                "INSERT INTO signing VALUES (?, ?, ?, NULL)",
                (signing.number, signing.public, signing.private),
            )

    # -- tokens ------------------------------------------------------------------------

    def put_token(self, token: bytes, row: TokenRow) -> None:
        """A new token (its hash); an unused one for the same name stops working."""
        with self._write() as db:
            db.execute("DELETE FROM tokens WHERE name = ? AND key IS NULL", (row.name,))
            db.execute(
                "INSERT INTO tokens VALUES (?, ?, ?, NULL)",
                (token, row.name, row.until),
            )

    def token(self, token: bytes) -> TokenRow | None:
        """The record of a token, by its hash; None if it is unknown."""
        with self._open() as db:
            row = db.execute("SELECT * FROM tokens WHERE hash = ?", (token,)).fetchone()
        return None if row is None else TokenRow(row["name"], row["until"], row["key"])

    def waiting(self) -> set[str]:
        """Names that have an unused token."""
        with self._open() as db:
            rows = db.execute("SELECT name FROM tokens WHERE key IS NULL").fetchall()
        return {row["name"] for row in rows}

    # -- certificates ------------------------------------------------------------------

    def issue(self, row: CertificateRow, token: bytes | None) -> bool:
        """Records a certificate, and that it used a token, in one transaction.

        Returns:
            Whether it was recorded; not if the token was used meanwhile.
        """
        with self._write() as db:
            if token is not None:
                used = db.execute(
                    "UPDATE tokens SET key = ? WHERE hash = ? AND key IS NULL",
                    (row.key, token),
                )
                if used.rowcount != 1:
                    return False
            db.execute(
                "INSERT INTO certificates (name, key, der, serial, until) "
                "VALUES (?, ?, ?, ?, ?)",
                (row.name, row.key, row.der, str(row.serial), row.until),
            )
        return True

    def certificates(self) -> list[CertificateRow]:
        """Every certificate, oldest first."""
        with self._open() as db:
            rows = db.execute("SELECT * FROM certificates ORDER BY no").fetchall()
        return [
            CertificateRow(
                r["name"], r["key"], r["der"], int(r["serial"]), r["until"],
                r["revoked"],
            )
            for r in rows
        ]  # fmt: skip

    def revoke(self, name: str, why: str, *, but_key: bytes = b"") -> int:
        """Takes back a name's certificates and unused token; how many there were.

        Args:
            name: The device.
            why: Told to the device and to people.
            but_key: A key that stays: when older ones are only out of use.
        """
        with self._write() as db:
            if not but_key:
                db.execute("DELETE FROM tokens WHERE name = ? AND key IS NULL", (name,))
            done = db.execute(
                "UPDATE certificates SET revoked = ? "
                "WHERE name = ? AND revoked IS NULL AND key != ?",
                (why, name, but_key),
            )
            return done.rowcount

    # -- signing keys ------------------------------------------------------------------

    def signing(self) -> list[SigningRow]:
        """The coordinator's signing keys, oldest first; only the last has a private."""
        with self._open() as db:
            rows = db.execute("SELECT * FROM signing ORDER BY number").fetchall()
        return [SigningRow(*row) for row in rows]

    def rotate(self, row: SigningRow) -> None:
        """The next signing key takes over; the last one's private half is forgotten."""
        with self._write() as db:
            db.execute(
                "INSERT INTO signing VALUES (?, ?, ?, ?)",
                (row.number, row.public, row.private, row.notice),
            )
            db.execute(
                "UPDATE signing SET private = NULL WHERE number < ?", (row.number,)
            )
