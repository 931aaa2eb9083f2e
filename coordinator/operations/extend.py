"""Extends a run by some rounds, whether its coordinator runs or not."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import msgspec

from coordinator.algorithms.load import load_algorithm
from coordinator.algorithms.privacy import check_budget, check_private
from coordinator.identity.registry import IdentityRegistry
from coordinator.ledger import read_ledger
from coordinator.settings import load_run
from coordinator.settings.extension import (
    RELEASED,
    extended_rounds,
    keep_extension,
)
from edge_sdk.errors import StateError

__all__ = ["extend_run", "lacks_devices"]


def extend_run(folder: Path, more: int) -> int:
    """Has a run go on for some more rounds; its coordinator sees it between two.

    Args:
        folder: The run's.
        more: Rounds.

    Returns:
        Rounds of the whole run now.

    Raises:
        StateError: If the run has no last round, has ended, or every device of it was
            revoked.
        SettingsError: If so many rounds would tell more than a private run may.
    """
    settings = load_run(folder / "run.toml")
    if not settings.rounds:
        raise StateError(
            f"the run of {folder} has no last round: rounds is 0",
            remedy=f"End it with: flash-coordinator stop {folder}",
        )
    _check_not_released(folder)
    if IdentityRegistry.exists(folder) and not settings.insecure:
        registry = IdentityRegistry(folder, settings.federation)
        if registry.refused() and not registry.enrolled():
            raise StateError(
                f"every device of {folder} was revoked: nobody could train",
                remedy="Let devices in again: flash-coordinator enroll "
                f"{folder} --new NAME.",
            )
    before, total = extended_rounds(folder), settings.rounds + more
    algorithm = load_algorithm(settings.algorithm, beside=folder)
    longer = msgspec.structs.replace(settings, rounds=total)
    check_private(algorithm, longer, where=f"{folder}, extended: ")
    with closing(read_ledger(folder)) as ledger:
        check_budget(ledger, longer, where=f"{folder}, extended: ")
    keep_extension(folder, total)
    try:
        _check_not_released(folder)  # it may have ended just now
    except StateError:
        keep_extension(folder, before)
        raise
    return total


def lacks_devices(folder: Path) -> str:
    """Reason why a run cannot begin with the devices it has; empty where it can.

    Once a round was opened, a run goes on with fewer.
    """
    settings = load_run(folder / "run.toml")
    if settings.insecure or not IdentityRegistry.exists(folder):
        return ""
    registry = IdentityRegistry(folder, settings.federation)
    gone, left = sorted(registry.refused()), len(registry.enrolled())
    with closing(read_ledger(folder)) as ledger:
        if not gone or left >= settings.wait_for or ledger.rounds():
            return ""
    return (
        f"it begins with {settings.wait_for} devices (wait_for), and {left} are "
        f"enrolled: revoked are {', '.join(gone[:5])}. Enrol others: "
        f"flash-coordinator enroll {folder} --new NAME."
    )


def _check_not_released(folder: Path) -> None:
    ledger = read_ledger(folder)
    try:
        released, done = ledger.get(RELEASED), ledger.rounds_done()
    finally:
        ledger.close()
    if released:
        raise StateError(
            f"the run of {folder} has ended after {done} rounds, and its devices were "
            "told so",
            remedy="Start another run in a new folder; its start may be this run's "
            "model, exported as a state dict.",
        )
