"""Settings, keys and models of a running coordinator, as its ledger's log has them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import msgspec

from coordinator.identity.registry import IdentityRegistry
from coordinator.ledger import Ledger, LogSigner
from coordinator.settings import RunSettings
from edge_sdk.checksums import file_digest
from edge_sdk.own_packages import own_version

__all__ = ["LoggedBest", "begin_log", "log_models"]

# Where devices reach the run and how; no model depends on it, and some is secret.
_WAYS = frozenset(
    {"address", "certificate_days", "enroll_port", "insecure", "page", "port", "proxy"}
    | {"broker", "broker_ca", "broker_cert", "broker_key", "broker_password_file"}
    | {"broker_profile", "broker_user", "evaluation", "start"}
)


class LoggedBest:
    """The ledger as `BestModels` uses it: what it notes is a record of the log."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def get(self, key: str) -> Any:
        """A stored JSON value, or None."""
        return self._ledger.get(key)

    def put(self, key: str, value: Any) -> None:
        """Stores a JSON value, with its record."""
        self._ledger.put_logged(key, value, "best")


def begin_log(
    ledger: Ledger, settings: RunSettings, identities: IdentityRegistry | None
) -> Callable[[], None]:
    """Append the record of a coordinator's start.

    Returns:
        What appends the record of a new signing key.
    """

    def signer() -> LogSigner | None:
        if identities is None:
            return None
        keys = identities.log_keys()
        return LogSigner(keys.certificate(), keys.sign)

    told: dict[str, Any] = msgspec.to_builtins(settings, enc_hook=str)
    ledger.begin_log(
        settings.federation,
        {key: value for key, value in told.items() if key not in _WAYS},
        version=own_version(),
        authority=b"" if identities is None else identities.authority,
        signer=signer(),
    )

    def rotated() -> None:
        if (after := signer()) is not None:
            ledger.change_log_key(after)

    return rotated


def log_models(ledger: Ledger, no: int, files: Iterable[Path]) -> None:
    """Append a record of the models that are written to export from.

    Args:
        ledger: The run's.
        no: The round that the newest of them are of.
        files: Checkpoints; others are left out.
    """
    found = {
        path.name: file_digest(path)
        for path in sorted(files)
        if path.suffix == ".safetensors"
    }
    ledger.log_note("deployed", no, files=found)
