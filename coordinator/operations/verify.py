"""Verification of a proof with all that a coordinator's installation can check.

Beyond the chain (`edge_sdk.proof`): what each update counts follows from the settings,
and where the updates' bytes are there, each model is made of them again, bit for bit.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from cryptography import x509

from coordinator.operations.recompute import recompute
from coordinator.rounds.contribution_limits import PAST, shares
from edge_sdk.errors import StateError, disk_remedy
from edge_sdk.proof.file import ProofFile, read_proof
from edge_sdk.proof.records import object_of
from edge_sdk.proof.signed import load_authority
from edge_sdk.proof.verify import Verified, log_of, verify_proof

__all__ = ["verify", "verify_open"]

Record = Mapping[str, Any]


def verify(
    path: Path,
    *,
    authority: Path | None = None,
    model: Path | None = None,
    earlier: Path | None = None,
) -> Verified:
    """Verify a proof, offline.

    Args:
        path: The proof.
        authority: PEM or DER of the federation's authority; without one no signature is
            checked.
        model: A model's file, to be found in the log.
        earlier: An older proof of the same run.

    Raises:
        IdentityError: If the authority is no certificate.
        StateError: If a file cannot be read, or is no proof.
    """
    whom = None if authority is None else load_authority(_content(authority))
    given = None if model is None else _content(model)
    with read_proof(path) as proof:
        if earlier is None:
            return verify_open(proof, authority=whom, model=given)
        with read_proof(earlier) as before:
            return verify_open(proof, authority=whom, model=given, earlier=before)


# Raised by values of another form than a run writes: whoever makes a proof up chooses.
_UNREADABLE = ArithmeticError, AttributeError, LookupError, TypeError, ValueError


def verify_open(
    proof: ProofFile,
    *,
    authority: x509.Certificate | None = None,
    model: bytes | None = None,
    earlier: ProofFile | None = None,
) -> Verified:
    """Verify a proof that is open; as `verify`.

    Raises:
        StateError: If it is no proof, or of another version.
    """
    found = verify_proof(proof, authority=authority, model=model, earlier=earlier)
    if not found.holds:  # what does not follow from itself is not made again
        return found
    wrong: list[str] = []
    again: list[str] = []
    notes: list[str] = []
    try:
        wrong = _wrong_weights(proof)
        if not wrong:
            again, notes = recompute(proof)
    except _UNREADABLE as error:
        why = f"{type(error).__name__}: {error}"
        wrong.append(f"what it says of its models cannot be read ({why[:200]})")
    return replace(
        found, found=(*found.found, *wrong, *again), notes=(*found.notes, *notes)
    )


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise StateError(
            f"{path} cannot be read: {error.strerror}", remedy=disk_remedy(error)
        ) from error


def _wrong_weights(proof: ProofFile) -> list[str]:
    """Rounds in which an update counts otherwise than the settings say."""
    found: list[str] = []
    norms: dict[int, list[float]] = {}
    settings: Record = {}
    first: int | None = None
    for seq, record in log_of(proof):
        if record["kind"] == "round":
            content = proof.members.get(f"contents/{record.get('settings')}", b"")
            settings = object_of(content) or {}
            if first is None and record["round"]:
                first = record["round"] if seq and log_of(proof)[0][0] else 0
        lines = proof.lines(f"leaves/{seq:08}.jsonl")
        if record["kind"] != "model" or not lines:
            continue
        no = record["round"]
        leaves = [one for one in map(json.loads, lines) if one.get("counted")]
        past = [n for p in range(no - PAST, no) if p > 0 for n in norms.get(p, ())]
        norms[no] = [one["norm"] for one in leaves]
        keep = settings.get("keep_rounds", 0)
        known = no - PAST >= (first or 0) or not first
        if known and (not keep or keep > PAST):
            found += _of_round(seq, no, leaves, past, settings)
    return found


def _of_round(
    seq: int, no: int, leaves: list[Record], past: list[float], settings: Record
) -> list[str]:
    bounds = dict(settings.get("gate", {}))
    private = settings.get("privacy", {})
    if private.get("noise_multiplier") or private.get("secure_aggregation"):
        bounds = {}
    wanted = shares(
        [one["norm"] for one in leaves],
        [one["examples"] for one in leaves],
        past,
        clip=bounds.get("clip", 0),
        weight=bounds.get("weight", 0),
        influence=bounds.get("influence", 0),
    )
    return [
        f"round {no} (record {seq}), {one['device']}: it counts {one['weight']:g}, "
        f"scaled by {one['scale']:g}; by the settings {own.weight:g} by {own.scale:g}"
        for one, own in zip(leaves, wanted, strict=True)
        if (one["weight"], one["scale"]) != (own.weight, own.scale)
    ]
