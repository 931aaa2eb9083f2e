"""The ledger's log: a hash chain of all that decides the models, for `prove`.

Rule 1. A record is written in the transaction of what it records: a crash leaves both
        or neither.
Rule 2. A record is small whatever the round's size: what concerns each task is a leaf
        of a Merkle tree, and the record has the root.
Rule 3. A round's records name by digest whatever is needed to check them, so older
        ones can go when rounds are folded; the head before the kept ones stays.

`edge_sdk.proof` says what the bytes are.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from coordinator.ledger.commits import Pages, now
from edge_sdk.json_text import to_json
from edge_sdk.proof.chain import FIRST, head_text, link, record_line
from edge_sdk.proof.merkle import root_of

__all__ = ["LogEntry", "LogPages", "LogSigner", "RunLog", "SignedOffer"]

FEDERATION = "log_federation"
START = "log_start"  # of the first record that is kept: its number, the head before it


@dataclass(frozen=True, slots=True)
class LogSigner:
    """Signs the log's heads.

    Attributes:
        certificate: The signing key's, DER.
        sign: Bytes to signature.
    """

    certificate: bytes
    sign: Callable[[bytes], bytes]


@dataclass(frozen=True, slots=True)
class SignedOffer:
    """A device's signed OFFER: its word on which update it sent.

    Attributes:
        packet: As it came.
        certificate: Of the key that signed it, DER.
    """

    packet: bytes
    certificate: bytes


@dataclass(frozen=True, slots=True)
class LogEntry:
    """One record as it is kept; `leaves` are those of its tree."""

    seq: int
    record: bytes
    leaves: tuple[bytes, ...]
    head: bytes
    signature: bytes
    certificate: str


@dataclass(frozen=True, slots=True)
class RunLog:
    """A run's log as it is kept.

    Attributes:
        federation: Its name.
        before: The head before the first record; zero bytes where none was folded.
        entries: At least one.
        contents: What records name by digest, by that digest in hex.
    """

    federation: str
    before: bytes
    entries: tuple[LogEntry, ...]
    contents: Mapping[str, bytes]


class LogPages(Pages):
    """The part of the ledger that appends to the log.

    Nothing is written before `begin_log`: who only looks, or plays a ledger without a
    run, has no log.
    """

    _federation = ""
    _signer: LogSigner | None = None
    _named: Mapping[str, str] = {}  # what each round's record names by digest

    def begin_log(
        self,
        federation: str,
        settings: Mapping[str, Any],
        *,
        version: str,
        authority: bytes = b"",
        signer: LogSigner | None = None,
    ) -> None:
        """Append a record of this coordinator's start; others may follow it.

        Args:
            federation: Its name.
            settings: What decides the models, as plain values.
            version: Of this package.
            authority: The authority's certificate, DER; empty without identities.
            signer: Signs each head; None without identities.
        """
        with self._commits.alone() as db:
            first = db.execute("SELECT 1 FROM log LIMIT 1").fetchone() is None
            (before,) = db.execute(
                "SELECT count(*) FROM rounds WHERE phase != 'plan'"
            ).fetchone()
            self._federation, self._signer = federation, signer
            name = to_json(federation)
            db.execute("REPLACE INTO meta VALUES (?, ?)", (FEDERATION, name))
            self._named = {"settings": self._content(db, record_line(dict(settings)))}
            self._name_key(db, authority)
            told = {
                "federation": federation,
                "epoch": self.get("epoch") or 0,
                "version": version,
                "unlogged": before if first else 0,
            }
            self._append(db, "start", 0, {**told, **self._named})

    def change_log_key(self, signer: LogSigner) -> None:
        """Append a record of the key that signs from now on; it signs it itself."""
        with self._commits.alone() as db:
            self._signer = signer
            self._name_key(db, b"")
            self._append(db, "key", 0, {"key": self._named["key"]})

    def read_log(self) -> RunLog | None:
        """The log as of one moment; None of a ledger that has none."""
        found = self._db.execute("SELECT 1 FROM sqlite_master WHERE name = 'log'")
        if found.fetchone() is None:  # who only reads makes no tables
            return None
        self._db.execute("BEGIN")  # a coordinator may append, or fold, meanwhile
        try:
            rows = self._db.execute("SELECT * FROM log ORDER BY seq").fetchall()
            kept = self._db.execute("SELECT digest, content FROM log_contents")
            contents = {row["digest"]: row["content"] for row in kept}
            federation, start = (
                self.get(FEDERATION),
                self.get(START) or (0, FIRST.hex()),
            )
        finally:
            self._db.execute("COMMIT")
        if not rows:
            return None
        before = bytes.fromhex(start[1])
        return RunLog(federation, before, tuple(map(_entry, rows)), contents)

    def put_logged(self, key: str, value: object, kind: str) -> None:
        """Store a JSON value and append a record of it."""
        with self._commits.alone() as db:
            db.execute("REPLACE INTO meta VALUES (?, ?)", (key, to_json(value)))
            self._append(db, kind, 0, {key: value})

    def log_note(self, kind: str, no: int, **fields: Any) -> None:
        """Append a record of something that changes no table."""
        with self._commits.alone() as db:
            self._append(db, kind, no, fields)

    # -- for the other pages -----------------------------------------------------------

    def _append(
        self,
        db: sqlite3.Connection,
        kind: str,
        no: int,
        fields: Mapping[str, Any],
        leaves: Sequence[bytes] | None = None,
    ) -> None:
        """Append a record in the open transaction, if the log has begun."""
        if not self._federation:
            return
        last = db.execute("SELECT seq, head FROM log ORDER BY seq DESC LIMIT 1")
        row = last.fetchone()
        seq, before = (0, FIRST) if row is None else (row["seq"] + 1, row["head"])
        tree = {}
        if leaves is not None:
            tree = {"root": root_of(leaves).hex(), "leaves": len(leaves)}
        record = record_line(
            {"seq": seq, "kind": kind, "round": no, "at": now(), **fields, **tree}
        )
        head = link(before, record)
        signature, certificate = b"", ""
        if self._signer is not None:
            signature = self._signer.sign(head_text(self._federation, seq, head))
            certificate = self._named["key"]
        text = None if leaves is None else b"\n".join(leaves).decode("ascii")
        db.execute(
            "INSERT INTO log VALUES (?, ?, ?, ?, ?, ?, ?)",
            (seq, no, record.decode("ascii"), text, head, signature, certificate),
        )

    def _content(self, db: sqlite3.Connection, content: bytes) -> str:
        """Keep what a record names by digest, for as long as the record is kept."""
        if not self._federation:
            return ""
        digest = sha256(content).hexdigest()
        (seq,) = db.execute("SELECT coalesce(max(seq), -1) + 1 FROM log").fetchone()
        db.execute(
            "INSERT INTO log_contents VALUES (?, ?, ?) "
            "ON CONFLICT (digest) DO UPDATE SET last = excluded.last",
            (digest, content, seq),
        )
        return digest

    def _named_again(self, db: sqlite3.Connection, digests: Iterable[str]) -> None:
        """A record that comes next names these contents, too."""
        (seq,) = db.execute("SELECT coalesce(max(seq), -1) + 1 FROM log").fetchone()
        db.executemany(
            "UPDATE log_contents SET last = ? WHERE digest = ?",
            [(seq, digest) for digest in digests],
        )

    def _fold_log(self, db: sqlite3.Connection, before: int) -> None:
        """Let the records before a round's first one go."""
        row = db.execute(
            "SELECT min(seq) AS seq FROM log WHERE round >= ? "
            'AND record LIKE \'%"kind": "round"%\'',
            (before,),
        ).fetchone()
        if not row["seq"]:
            return
        old = db.execute("SELECT head FROM log WHERE seq = ?", (row["seq"] - 1,))
        if (last := old.fetchone()) is None:
            return
        db.execute("DELETE FROM log WHERE seq < ?", (row["seq"],))
        db.execute("DELETE FROM log_contents WHERE last < ?", (row["seq"],))
        told = f'[{row["seq"]}, "{last["head"].hex()}"]'
        db.execute("REPLACE INTO meta VALUES (?, ?)", (START, told))

    def _name_key(self, db: sqlite3.Connection, authority: bytes) -> None:
        named = dict(self._named)
        if authority:
            named["authority"] = self._content(db, authority)
        if self._signer is not None:
            named["key"] = self._content(db, self._signer.certificate)
        self._named = named


def _entry(row: sqlite3.Row) -> LogEntry:
    leaves = row["leaves"].split("\n") if row["leaves"] else []
    return LogEntry(
        *(row["seq"], row["record"].encode("ascii")),
        tuple(leaf.encode("ascii") for leaf in leaves),
        *(row["head"], row["signature"], row["certificate"]),
    )
