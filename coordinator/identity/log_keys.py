"""Keys behind a run's log: the coordinator's that signs it, and the devices' in it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding

from coordinator.identity.authority import END, Authority
from coordinator.identity.store import IdentityStore
from edge_sdk.identity.keys import raw_key

__all__ = ["LogKeys"]


@dataclass(frozen=True)
class LogKeys:
    """Keys that a log is signed with, and checked by.

    Attributes:
        authority: Of the run.
        store: Its certificates.
        key: The key that signs the coordinator's messages now.
    """

    authority: Authority
    store: IdentityStore
    key: Callable[[], Ed25519PrivateKey]

    def certificate(self) -> bytes:
        """A certificate (DER) of the key that signs now, for logs."""
        made = self.authority.for_log(raw_key(self.key()), END)
        return made.public_bytes(Encoding.DER)

    def sign(self, text: bytes) -> bytes:
        """The signature over a head of the log, or over a proof."""
        return self.key().sign(text)

    def of_device(self, name: str, signed: Callable[[bytes], bool]) -> bytes:
        """The certificate (DER) of the key that a device has signed with; else nothing.

        Args:
            name: The device.
            signed: Raw key -> whether it signed.
        """
        rows = [row for row in self.store.certificates() if row.name == name]
        return next((row.der for row in reversed(rows) if signed(row.key)), b"")
