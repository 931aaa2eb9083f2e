"""A run's identities with a clock turned by hand, and devices on disk."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from coordinator.identity.listener import Listener, Welcome
from coordinator.identity.policy import DAY_S
from coordinator.identity.registry import IdentityRegistry
from edge_sdk.identity.enroll import enroll
from edge_sdk.identity.folder import DeviceFolder
from edge_sdk.identity.token import read_token


class Clock:
    """Unix seconds, turned by hand."""

    def __init__(self) -> None:
        self.now = 1_800_000_000

    def __call__(self) -> int:
        return self.now

    def pass_days(self, days: float) -> None:
        self.now += int(days * DAY_S)


class Site:
    """One run's identities."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.clock = folder, Clock()
        self.identities = self.reopen()

    def reopen(self) -> IdentityRegistry:
        """The same run in another process, or after a crash."""
        return IdentityRegistry(self.folder / "run", "home", days=90, now=self.clock)

    @contextmanager
    def listening(
        self, identities: IdentityRegistry | None = None
    ) -> Iterator[Listener]:
        welcome = Welcome("mqtts://127.0.0.1:8883", b"", "digits")
        listener = Listener(
            identities or self.identities,
            welcome,
            bind="127.0.0.1",
            port=0,
            address="127.0.0.1",
        )
        try:
            yield listener
        finally:
            listener.close()

    def device(self, name: str, folder: str = "") -> DeviceFolder:
        """Lets a device in over a real listener."""
        where = self.folder / (folder or name)
        with self.listening() as listener:
            text = self.identities.token(name, "127.0.0.1", listener.port, hours=1)
            enroll(read_token(text), where)
        return DeviceFolder(where)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)
