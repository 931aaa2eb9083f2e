"""A federation whose updates are masked, in virtual time; it can be killed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from secure_messages import RecordingBroker
from virtual import House

from coordinator.algorithms.privacy import PrivacySettings

__all__ = ["SecureHouse"]


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
        old.ledger._blobs.close()
        old.ledger._db.close()
        assert old.ledger._lock is not None
        old.ledger._lock.close()
        self.coordinator = self.coordinate()
