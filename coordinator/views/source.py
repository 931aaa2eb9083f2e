"""Views of a run's folder, read again only when it has changed."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from coordinator.ledger import Ledger, holder, read_ledger
from coordinator.settings import RunSettings, load_run
from coordinator.views.device_view import DeviceHistory, DeviceView
from coordinator.views.exports import Exports
from coordinator.views.layers import WarmUpView
from coordinator.views.ledger_view import (
    read_device,
    read_round,
    read_run,
    read_warm_up,
)
from coordinator.views.round_view import RoundHistory
from coordinator.views.run_view import RunView
from edge_sdk.errors import EdgeError, StateError
from edge_sdk.transport.address import parse_url
from edge_sdk.transport.proxy import parse_proxy

__all__ = ["RunSource"]

T = TypeVar("T")


class RunSource:
    """The views of a run's folder; safe to ask from several threads. Writes nothing.

    Args:
        folder: The run's folder; the run need not have begun.

    Attributes:
        folder: The same.
        exports: Its files.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.exports = folder, Exports(folder)
        self._lock = threading.Lock()
        self._ledger: Ledger | None = None
        self._settings: RunSettings | None = None
        self._kept: tuple[object, dict[str, Any]] = None, {}

    def version(self) -> object:
        """A value that differs once the run has changed."""
        with self._lock:
            return self._version(), self.runs()

    def run(self) -> RunView:
        """Rounds, devices and scores.

        Raises:
            StateError: If there is no ledger, or one of another version.
            SettingsError: If ``run.toml`` cannot be read.
        """

        def answer(ledger: Ledger) -> RunView:
            found = read_run(self.settings(), ledger)
            return replace(found, devices=[self._now(d) for d in found.devices])

        return self._ask("run", answer)

    def device(self, name: str) -> DeviceHistory:
        """One device: profile, density and why, its rounds, what was refused.

        Raises:
            StateError: As `run`, and for a device that the run has not seen.
        """

        def answer(ledger: Ledger) -> DeviceHistory:
            found = read_device(ledger, name)
            return replace(found, device=self._now(found.device))

        return self._ask(f"device {name}", answer)

    def round(self, no: int) -> RoundHistory:
        """One round: cohort, deadline, coverage.

        Raises:
            StateError: As `run`, and for a round that has not begun.
        """
        return self._ask(f"round {no}", lambda ledger: read_round(ledger, no))

    def warm_up(self) -> WarmUpView:
        """Layer densities, as measured and after recalibration.

        Raises:
            StateError: As `run`, and before the masks are drawn.
        """
        return self._ask("warm-up", read_warm_up)

    def settings(self) -> RunSettings:
        """The settings as they took effect.

        Raises:
            StateError: If there is no ``run.toml``.
            SettingsError: If it cannot be read.
        """
        if self._settings is None:
            path = self.folder / "run.toml"
            if not path.exists():
                raise StateError(
                    f"{path} does not exist",
                    remedy="Name the folder that `flash-coordinator init` wrote.",
                )
            self._settings = load_run(path)
        return self._settings

    def shown_settings(self) -> dict[str, Any]:
        """The settings as plain values, without a broker's password."""
        found: dict[str, Any] = msgspec.to_builtins(self.settings(), enc_hook=str)
        if found["broker"]:
            found["broker"] = parse_url(found["broker"]).url
        if found["proxy"] not in ("", "none"):
            found["proxy"] = parse_proxy(found["proxy"]).url
        return found

    def runs(self) -> bool:
        """Return whether a coordinator runs here.

        Asked several times a second: the lock, which a coordinator that starts wants
        for itself, is only tried where the process that wrote it is alive.
        """
        try:
            pid = int((self.folder / "lock").read_text(encoding="ascii"))
        except (OSError, ValueError):
            return False
        return _is_there(pid) and holder(self.folder) is not None

    def _ask(self, what: str, answer: Callable[[Ledger], T]) -> T:
        """One answer per version of the ledger, however many pages are open."""
        with self._lock:
            version = self._version()
            if self._kept[0] != version:
                self._kept = version, {}
            kept = self._kept[1]
            if what not in kept:
                kept[what] = answer(self._open())
            found: T = kept[what]
            return found

    def _open(self) -> Ledger:
        if self._ledger is None:
            self._ledger = read_ledger(self.folder)
        return self._ledger

    def _version(self) -> object:
        try:
            return self._open().data_version(), self.runs()
        except EdgeError as error:  # not begun, or of another version: said by `run`
            return str(error)

    def _now(self, device: DeviceView) -> DeviceView:
        """The device, offline where no coordinator would hear it go."""
        return device if self.runs() else replace(device, online=False)


def _is_there(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True  # another user's
    except (OSError, OverflowError):
        return False
    return pid > 0
