"""`flash-edge verify`: a device checks how a model was made, and its own part in it."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from edge_sdk.errors import SettingsError, StateError
from edge_sdk.proof.file import ProofFile, read_proof
from edge_sdk.proof.own_updates import OwnUpdates, own_updates
from edge_sdk.proof.report import as_text
from edge_sdk.proof.signed import load_authority
from edge_sdk.proof.verify import verify_proof
from edge_sdk.settings import DeviceSettings, load_settings
from edge_sdk.storage.journal import read_journal
from edge_sdk.terminal import Exit, Json, show

__all__ = ["verify"]


def verify(
    proof: Annotated[
        Path, typer.Argument(help="A proof, from flash-coordinator prove.")
    ],
    *,
    settings: Annotated[
        Path | None,
        typer.Option(help="This device's TOML file: are its updates in the proof?"),
    ] = None,
    authority: Annotated[
        Path | None,
        typer.Option(help="The federation's authority. Default: this device's own."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Verify a PROOF, offline and without torch: chain, trees and signatures."""
    own = None if settings is None else load_settings(settings, DeviceSettings)
    if authority is None and own is not None and own.identity is not None:
        authority = own.identity / "authority.pem"
    try:
        whom = None if authority is None else load_authority(authority.read_bytes())
    except OSError as error:
        raise StateError(f"{authority} cannot be read: {error.strerror}") from error
    with read_proof(proof) as opened:
        found = verify_proof(opened, authority=whom)
        mine = None if own is None or found.found else _mine(opened, own)
    facts = {**asdict(found), "own": None if mine is None else asdict(mine)}
    show(facts, lambda: as_text(found) + _words(mine), as_json=as_json)
    if found.found or (mine is not None and mine.wrong):
        sys.exit(Exit.FOUND)


def _mine(proof: ProofFile, own: DeviceSettings) -> OwnUpdates:
    federation = proof.table()["federation"]
    if federation != own.federation:
        raise SettingsError(
            f"the proof is of federation {federation}; this device is in "
            f"{own.federation}",
            remedy="Ask the operator of this device's federation for its proof.",
        )
    record = read_journal(own.state)
    made = {task: digest.hex() for task, digest in record.packed}
    said = frozenset(t for t, verdict in record.finished if verdict == "accepted")
    return own_updates(proof, own.name, made, said)


def _words(mine: OwnUpdates | None) -> str:
    if mine is None:
        return ""
    lines = [f"\nof this device's latest updates {len(mine.counted)} are in a model"]
    lines += [f"  wrong       {sentence}" for sentence in mine.wrong]
    lines += [f"  left out    {task}: {why}" for task, why in mine.left_out.items()]
    if mine.open:
        lines.append(f"  note        {len(mine.open)} are of rounds not in the proof")
    return "\n".join(lines)
