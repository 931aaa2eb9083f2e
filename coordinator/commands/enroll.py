"""Commands on identities: tokens, revocation, and the key that signs orders."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from coordinator.commands import complete
from coordinator.commands.options import SETTINGS, Folder, own_folder
from coordinator.settings import load_run
from edge_sdk.errors import IdentityError, SettingsError, StateError
from edge_sdk.terminal import Json, say, show, tell

if TYPE_CHECKING:
    from coordinator.identity.registry import IdentityRegistry

__all__ = ["enroll", "revoke", "rotate"]


def enroll(
    folder: Folder,
    names: Annotated[
        list[str] | None, typer.Argument(help="Names of the devices to enrol.")
    ] = None,
    new: Annotated[
        bool, typer.Option("--new", help="Enrol the named devices.")
    ] = False,
    bulk: Annotated[
        int,
        typer.Option(
            help="Enrol so many devices, with names chosen here.", min=0, max=10_000
        ),
    ] = 0,
    prefix: Annotated[str, typer.Option(help="Prefix of bulk names.")] = "device",
    hours: Annotated[
        float,
        typer.Option(help="How long an unused token works.", min=0.01, max=87_600),
    ] = 24.0,
    as_json: Json = False,
) -> None:
    """Print one-time tokens, a line per device, for `flash-edge enroll TOKEN` there."""
    from coordinator.identity.broker_access import enroll_port, open_identities  # noqa: PLC0415
    from coordinator.identity.policy import free_names  # noqa: PLC0415
    from coordinator.identity.registry import IdentityRegistry  # noqa: PLC0415
    from coordinator.ledger import is_held  # noqa: PLC0415

    settings = load_run(folder / SETTINGS)
    if bool(names) == bool(bulk) or (names and not new):
        raise SettingsError(
            "give either names or --bulk",
            remedy=f"flash-coordinator enroll {folder} --new NAME... or --bulk N",
        )
    if is_held(folder) and not IdentityRegistry.exists(folder):
        raise IdentityError(
            f"the coordinator of {folder} runs without encryption and lets no device "
            f"enrol",
            remedy="Stop it, enrol, and start it again: it then asks for identities.",
        )
    own_folder(folder)
    identities = open_identities(folder, settings)
    port = enroll_port(identities, settings)
    chosen = names or free_names(prefix, bulk, identities.taken())
    tokens = {
        name: identities.token(name, settings.address, port, hours=hours)
        for name in chosen
    }
    lines = [f"{name}  {token}" for name, token in tokens.items()]
    show(tokens, lambda: "\n".join(lines), as_json=as_json)
    say(
        "On each device: flash-edge enroll TOKEN, while flash-coordinator run "
        f"{folder} runs here. A token works once, for {hours:g} hours.",
        aside=True,
    )


def revoke(
    folder: Folder,
    name: Annotated[
        str, typer.Argument(help="The device.", autocompletion=complete.devices)
    ],
    why: Annotated[
        str, typer.Option(help="Reason, shown to the device and to people.")
    ] = "by the operator",
    as_json: Json = False,
) -> None:
    """Revoke a device's identity; a running coordinator acts within a second."""
    _identities(folder).revoke(name, why)
    _mark(folder, name)
    tell({"revoked": name, "why": why}, f"revoked {name}", as_json=as_json)


def rotate(folder: Folder, as_json: Json = False) -> None:
    """Replace the key that the coordinator signs with; devices follow by themselves."""
    number = _identities(folder).rotate()
    tell({"key": number}, f"key {number} signs from now on", as_json=as_json)


def _mark(folder: Path, name: str) -> None:
    """Displays say so, too; a coordinator that runs, or starts, sees to it itself."""
    from coordinator.ledger import is_held, open_ledger  # noqa: PLC0415

    if is_held(folder) or not (folder / "ledger.sqlite").exists():
        return
    with contextlib.suppress(StateError):
        ledger = open_ledger(folder)
        try:
            ledger.dismiss(name)
        finally:
            ledger.close()


def _identities(folder: Path) -> IdentityRegistry:
    from coordinator.identity.broker_access import open_identities  # noqa: PLC0415
    from coordinator.identity.registry import IdentityRegistry  # noqa: PLC0415

    settings = load_run(folder / SETTINGS)
    if not IdentityRegistry.exists(folder):
        raise IdentityError(
            f"{folder} has no enrolled devices",
            remedy=f"flash-coordinator enroll {folder} --new NAME...",
        )
    own_folder(folder)
    return open_identities(folder, settings)
