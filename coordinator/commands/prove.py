"""`flash-coordinator prove` and `verify`: how a model was made, for strangers."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from coordinator.commands.options import Folder, own_folder
from edge_sdk.proof.report import as_text
from edge_sdk.terminal import Exit, Json, show, tell

__all__ = ["prove", "verify"]

ProofPath = Annotated[Path, typer.Argument(help="A proof, from prove.")]


def prove(
    folder: Folder,
    *,
    out: Annotated[
        Path | None, typer.Option(help="The file. Default: FOLDER/proof.zip.")
    ] = None,
    device: Annotated[
        str, typer.Option(help="Show this device's updates only; of others, hashes.")
    ] = "",
    updates: Annotated[
        bool,
        typer.Option(
            "--updates/--without-updates",
            help="Whether the bytes of updates that are still kept go in.",
        ),
    ] = True,
    as_json: Json = False,
) -> None:
    """Write a proof of how FOLDER's models were made, for `verify`."""
    from coordinator.operations.prove import prove as write  # noqa: PLC0415

    if folder.is_dir():
        own_folder(folder)  # updates say something about private examples
    path = folder / "proof.zip" if out is None else out
    made = write(folder, path, device=device, with_updates=updates)
    signed = "signed" if made.signed else "not signed: the run has no identities"
    told = (
        f"wrote {made.path}: {made.records} records, {made.updates} updates, {signed}"
    )
    facts = {"proof": str(path), "records": made.records, "updates": made.updates}
    tell({**facts, "signed": made.signed}, told, as_json=as_json)


def verify(
    proof: ProofPath,
    *,
    authority: Annotated[
        Path | None,
        typer.Option(help="The federation's authority, PEM or DER; whose word counts."),
    ] = None,
    model: Annotated[
        Path | None, typer.Option(help="A model's file, to be found in the log.")
    ] = None,
    earlier: Annotated[
        Path | None, typer.Option(help="An older proof, which this one must continue.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Verify a PROOF, offline: chain, trees, signatures, weights, aggregates."""
    from coordinator.operations.verify import verify as check  # noqa: PLC0415

    found = check(proof, authority=authority, model=model, earlier=earlier)
    show(asdict(found), lambda: as_text(found), as_json=as_json)
    if not found.holds:
        sys.exit(Exit.FOUND)
