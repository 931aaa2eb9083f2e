"""Checks of a bundle before its delivery: whole, signed, for devices we know."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from coordinator.delivery.store import DeliveryStore
from coordinator.identity.broker_access import identities_for
from coordinator.ledger import read_ledger
from coordinator.settings import RunSettings
from edge_sdk.errors import ExportError, IdentityError, StateError
from edge_sdk.infer import Bundle
from edge_sdk.infer.packed import pack_bundle
from edge_sdk.infer.run_key import PUBLIC
from edge_sdk.infer.signature import read_public_key
from edge_sdk.wire.blob import blob_id, manifest_of

__all__ = ["Prepared", "prepare"]


@dataclass(frozen=True)
class Prepared:
    """A delivery as recorded."""

    no: int
    label: str
    devices: tuple[str, ...]


def prepare(
    folder: Path,
    settings: RunSettings,
    bundle: Path,
    devices: Sequence[str],
    *,
    trusted: bytes | None = None,
    worse_too: bool = False,
) -> Prepared:
    """Checks a bundle here as a board will, and records its delivery durably.

    Args:
        folder: The run's folder.
        settings: Its settings.
        bundle: The bundle's folder.
        devices: Names; empty for every device of the run.
        trusted: Raw public key that signed it; None for the run's own.
        worse_too: Whether a model may go out that is worse than the one before it.

    Raises:
        ExportError: If the bundle is damaged, unsigned, signed by another key, or its
            golden example fails here.
        IdentityError: If a device is unknown or revoked.
        LocalProtocolError: If it is too large to travel.
        StateError: If there is nobody to deliver to, or its round is marked as worse
            than the one before.
    """
    identities = identities_for(folder, settings)
    known = _known(folder)
    if identities is not None:
        known = (known | identities.enrolled()) - set(identities.refused())
    for name in devices:
        if name not in known:
            raise IdentityError(
                f"{name} is no device of this run",
                remedy=f"Name one of: {', '.join(sorted(known)) or 'none yet'}.",
            )
    chosen = tuple(sorted(set(devices) or known))
    if not chosen:
        raise StateError(f"no device has ever sent a HELLO to the run in {folder}")
    key = trusted or _run_key(folder)
    checked = Bundle(bundle)
    if (checked.signer is not None or identities is not None) and checked.signer != key:
        signer = checked.signer
        said = "not signed" if signer is None else f"signed by {signer.hex()[:16]}"
        raise ExportError(
            f"{bundle} is {said}, not by this run or by a key that you named",
            remedy=f"Build it from {folder}/models, or name --key PUBLIC.pem.",
        )
    checked.check()
    manifest = checked.manifest
    if not worse_too:
        _check_not_worse(folder, manifest.get("round"), bundle)
    packed = pack_bundle(bundle)
    label = f"{manifest['task']}, round {manifest['round']}"
    no = DeliveryStore(folder).add(
        packed,
        blob_id(manifest_of(packed)),
        digest=hashlib.sha256((bundle / "manifest.json").read_bytes()).digest(),
        key=checked.signer,
        label=label,
        devices=chosen,
    )
    return Prepared(no, label, chosen)


def _check_not_worse(folder: Path, no: object, bundle: Path) -> None:
    """Refuses a model that the run has marked as worse than the one before.

    Raises:
        StateError: If so.
    """
    try:
        ledger = read_ledger(folder)
    except StateError:  # no run yet
        return
    try:
        why = ledger.worse(no) if isinstance(no, int) else ""
    finally:
        ledger.close()
    if why:
        raise StateError(
            f"{bundle} is of round {no}: {why}",
            remedy=f"Build it from {folder}/models/best-*, or add --even-if-worse.",
        )


def _known(folder: Path) -> set[str]:
    try:
        ledger = read_ledger(folder)
    except StateError:  # no run yet: devices may be enrolled all the same
        return set()
    try:
        return {row.name for row in ledger.devices()}
    finally:
        ledger.close()


def _run_key(folder: Path) -> bytes | None:
    path = folder / PUBLIC
    return read_public_key(path) if path.exists() else None
