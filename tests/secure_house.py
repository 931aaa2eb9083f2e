"""A federation whose updates are masked, in virtual time; it can be killed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from secure_messages import RecordingBroker
from virtual import House

from coordinator.algorithms.privacy import PrivacySettings
from edge_sdk.identity.keys import raw_key
from edge_sdk.identity.signatures import signer

__all__ = ["Seal", "SecureHouse", "sign_keys"]


@dataclass
class Seal:
    """Signs with a key."""

    key: Ed25519PrivateKey

    @property
    def seal(self) -> Seal:
        return self

    def sign(self, text: bytes) -> bytes:
        return signer(lambda: self.key)(text)


def sign_keys(here: House) -> dict[str, Ed25519PrivateKey]:
    """Devices sign the keys of their rounds, and the coordinator knows theirs."""
    keys = {name: Ed25519PrivateKey.generate() for name in here.devices}
    for name, key in keys.items():
        here.devices[name].agent._session_effects.secure._device_keys = Seal(key)
    secure = here.coordinator.server._controller._secure
    secure._identity_keys = lambda device: [raw_key(keys[device])]
    return keys


class SecureHouse(House):
    """A real coordinator and real agents; the broker keeps what they say.

    Args:
        folder: Where all of them keep what they keep.
        devices: How many join at once.
        board: What they are.
        changes: Settings of the run that differ.
    """

    def __init__(
        self,
        folder: Path,
        devices: int,
        *,
        board: str = "raspberry_pi_4b_4gb",
        **changes: Any,
    ) -> None:
        plain: dict[str, Any] = {
            "algorithm": "equal-counts",
            "rounds": 2,
            "privacy": PrivacySettings(secure_aggregation=True),
            "wait_for": devices,
        }
        self.recorded = RecordingBroker()
        super().__init__(folder, self.recorded, **{**plain, **changes})
        for place in range(devices):
            self.join(f"pi-{place}", examples=100 - 10 * place, board=board)

    @property
    def run_folder(self) -> Path:
        """The coordinator's."""
        return self.folder / "run"

    def kill_coordinator(self) -> None:
        """As kill -9: what is not committed is gone, and nothing is said."""
        old = self.coordinator
        old.server._evaluator.close()
        old.server._transport.broker._links.remove(old.server._transport)
        old.ledger._commits.give_up()
        old.ledger._updates.close()
        old.ledger._db.close()
        assert old.ledger._lock is not None
        old.ledger._lock.close()
        self.coordinator = self.coordinate()
