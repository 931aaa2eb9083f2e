"""Verification of a proof, offline and without torch.

Rule 1. Everything found is said, each in one sentence that names the record; a proof
        that cannot be read at all is an error.
Rule 2. What a proof does not hold (old rounds that were folded, other devices' updates,
        updates' bytes) is noted, never taken as verified.
"""

from __future__ import annotations

import binascii
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

from cryptography import x509

from edge_sdk.proof.chain import FIRST, head_text, link, statement_text
from edge_sdk.proof.earlier import check_earlier
from edge_sdk.proof.file import SIGNATURE, TABLE, ProofFile, table_of
from edge_sdk.proof.records import Found, object_of
from edge_sdk.proof.rounds import RoundChecks
from edge_sdk.proof.signed import Certificates

__all__ = ["Verified", "log_of", "verify_proof"]

Records = Sequence[tuple[int, Mapping[str, Any]]]


@dataclass(frozen=True)
class Verified:
    """Result of a verification.

    Attributes:
        federation: Whose log it is.
        made: When the proof was made, by the coordinator's clock.
        signed: Whether signatures were checked against an authority.
        first: Sequence number of the first record; above 0 where older ones were
            folded.
        records: How many there are.
        rounds: Rounds that gave a model.
        models: SHA-256 of a model's file to the round that it is of.
        devices: Device to its part in the models.
        found: What is wrong; empty of a proof that holds.
        notes: What this proof does not show.
    """

    federation: str
    made: str
    signed: bool
    first: int
    records: int
    rounds: int
    models: Mapping[str, int]
    devices: Mapping[str, Mapping[str, Any]]
    found: tuple[str, ...] = ()
    notes: tuple[str, ...] = field(default=())

    @property
    def holds(self) -> bool:
        """True if nothing is wrong."""
        return not self.found


def verify_proof(
    proof: ProofFile,
    *,
    authority: x509.Certificate | None = None,
    earlier: ProofFile | None = None,
    model: bytes | None = None,
) -> Verified:
    """Follow a proof's chain, trees and signatures.

    Args:
        proof: Open.
        authority: Whose signatures are believed; None checks none, and says so.
        earlier: An older proof of the same run: its records must still be there.
        model: The bytes of a model's file, which one of the records must name.

    Raises:
        StateError: If it is no proof, or of another version.
    """
    table = table_of(proof)
    found = Found()
    certificates = None
    if authority is not None:
        certificates = Certificates(
            lambda digest: proof.members.get(f"contents/{digest}"),
            authority,
            table["federation"],
        )
    _check_table(proof, table, certificates, found)
    records = _check_chain(proof, table, certificates, found)
    checks = RoundChecks(proof, certificates, found, whole=not table["device"])
    for seq, record in records:
        checks.take(seq, record)
    checks.end()
    if model is not None:
        _check_model(model, checks.models, found)
    if earlier is not None:
        check_earlier(proof, earlier, found)
    return Verified(
        table["federation"],
        table["made"],
        signed=authority is not None,
        first=table["start"]["seq"],
        records=len(records),
        rounds=checks.done,
        models=checks.models,
        devices=checks.devices,
        found=tuple(found.sentences),
        notes=tuple(_notes(table, authority, checks)),
    )


def log_of(proof: ProofFile) -> Records:
    """The records of a proof that was verified, with their numbers."""
    start = table_of(proof)["start"]["seq"]
    parsed = [object_of(line) for line in proof.lines("records.jsonl")]
    return [(start + i, one) for i, one in enumerate(parsed) if one is not None]


def _check_table(
    proof: ProofFile,
    table: Mapping[str, Any],
    certificates: Certificates | None,
    found: Found,
) -> None:
    members = table["members"]
    for name in sorted({*proof.members, *members} - {TABLE, SIGNATURE}):
        content = proof.members.get(name)
        if content is None:
            found.say(f"member {name[:80]} is missing")
        elif members.get(name) != sha256(content).hexdigest():
            found.say(f"member {name} is not what the table of contents says")
        elif name.split("/")[0] in ("contents", "updates", "models") and (
            name.split("/")[1] != members[name]
        ):
            found.say(f"member {name} does not have the SHA-256 that it is named by")
    if certificates is not None:
        signature = proof.members.get(SIGNATURE, b"")
        text = statement_text(proof.members[TABLE])
        if why := certificates.signs(table["certificate"], signature, text):
            found.say(f"the proof is not signed by the run's coordinator: {why}")


def _check_chain(
    proof: ProofFile,
    table: Mapping[str, Any],
    certificates: Certificates | None,
    found: Found,
) -> list[tuple[int, Mapping[str, Any]]]:
    """The records that can be read; everything about the chain is said."""
    first, end = table["start"]["seq"], table["end"]
    lines, heads = proof.lines("records.jsonl"), proof.lines("heads.jsonl")
    if len(lines) != len(heads) or first + len(lines) - 1 != end["seq"]:
        found.say(
            f"{len(lines)} records and {len(heads)} heads; the table says "
            f"{end['seq'] - first + 1}"
        )
    head = _bytes(table["start"]["head"])
    if first == 0 and head != FIRST:
        found.say("the log does not begin at its first record")
    records: list[tuple[int, Mapping[str, Any]]] = []
    current = ""
    for seq, line in enumerate(lines, first):
        head = link(head, line)
        record = object_of(line)
        if record is None or record.get("seq") != seq:
            found.say(f"record {seq} cannot be read, or is in another's place")
            continue
        records.append((seq, record))
        if record.get("kind") in ("start", "key", "round"):
            current = str(record.get("key", ""))
        stated = object_of(heads[seq - first]) if seq - first < len(heads) else None
        given = table["federation"], seq, head, stated or {}
        if why := _wrong_head(*given, current, certificates):
            found.say(f"the head after record {seq} {why}")
    if head.hex() != end["head"]:
        found.say("the last record does not give the head that the table names")
    return records


def _wrong_head(
    federation: str,
    seq: int,
    head: bytes,
    stated: Mapping[str, Any],
    current: str,
    certificates: Certificates | None,
) -> str:
    """The fault of a head as stated; `current` is the key that the log names."""
    if stated.get("head") != head.hex():
        return "is another: a record was left out, added, moved or changed"
    if stated.get("seq") != seq:
        return "says that it is another's"
    if certificates is None:
        return ""
    if stated.get("certificate") != current:
        return "was signed with another key than the log names"
    signature = _bytes(stated.get("signature"))
    why = certificates.signs(current, signature, head_text(federation, seq, head))
    return f"is not the coordinator's: {why}" if why else ""


def _bytes(text: object) -> bytes:
    try:
        return bytes.fromhex(text) if isinstance(text, str) else b""
    except (ValueError, binascii.Error):
        return b""


def _check_model(content: bytes, models: Mapping[str, int], found: Found) -> None:
    digest = sha256(content).hexdigest()
    if digest not in models:
        found.say(
            f"the model (SHA-256 {digest[:16]}...) is none that a record names: it is "
            "no aggregate and no model of this log"
        )


def _notes(
    table: Mapping[str, Any], authority: object, checks: RoundChecks
) -> Sequence[str]:
    signed = authority is not None
    told: list[tuple[bool, Callable[[], str]]] = [
        (not signed, lambda: "no authority was given: nobody's signature was checked"),
        (
            table["start"]["seq"] > 0,
            lambda: (
                f"records before {table['start']['seq']} were folded away; the "
                f"proof begins with round {checks.first_round}"
            ),
        ),
        (
            checks.unlogged > 0,
            lambda: (
                f"{checks.unlogged} rounds are older than the log: nothing is "
                "proved of them"
            ),
        ),
        (
            bool(table["device"]),
            lambda: (
                f"the proof is for {table['device']} alone: other devices' updates "
                "are in it as hashes"
            ),
        ),
        (
            bool(checks.unsigned) and signed,
            lambda: (
                f"{checks.unsigned} updates were accepted before the log kept "
                "devices' signatures"
            ),
        ),
    ]
    return [note() for due, note in told if due]
