"""The facts of a page, from the run's ledger alone: it is read, never written."""

from __future__ import annotations

import hashlib
import json
import shlex
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import psutil

from coordinator.ledger import Ledger, holder, read_ledger
from coordinator.settings import RunSettings, load_run
from coordinator.views.page.advice import next_step
from coordinator.views.page.facts import (
    device_facts,
    round_facts,
    run_facts,
    warm_up_facts,
)
from edge_sdk.errors import EdgeError, StateError
from edge_sdk.transport.address import parse_url

__all__ = ["RunSource"]

T = TypeVar("T")
EXPORTS, MODELS = "exports", "models"
EXPORTED = (".onnx", ".ort", ".flsp", ".pte", ".tflite")


class RunSource:
    """What there is to know of a run's folder; safe to ask from several threads.

    Args:
        folder: The run's folder; the run need not have begun.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._ledger: Ledger | None = None
        self._settings: RunSettings | None = None
        self._digests: dict[tuple[str, int, int], str] = {}
        self._kept: tuple[object, dict[str, Any]] = None, {}

    def version(self) -> object:
        """A value that differs once the run has changed."""
        with self._lock:
            return self._version(), self._runs()

    def run(self) -> dict[str, Any]:
        """Rounds, devices and scores.

        Raises:
            StateError: If there is no ledger, or one of another version.
            SettingsError: If ``run.toml`` cannot be read.
        """

        def answer(ledger: Ledger) -> dict[str, Any]:
            found = run_facts(self._run_settings(), ledger)
            return found | {"devices": self._now(found["devices"])}

        return self._ask("run", answer)

    def page(self) -> dict[str, Any]:
        """What the page's overview shows: `run`, whether it runs, and what to do next.

        Raises:
            StateError: As `run`.
            SettingsError: As `run`.
        """
        found = self.run()
        runs = self._runs()
        evaluation = str(self._run_settings().evaluation)
        return found | {
            "runs": runs,
            "next": next_step(found, self._folder, evaluation, runs=runs),
        }

    def device(self, name: str) -> dict[str, Any]:
        """One device: profile, density and why, its rounds, what was refused.

        Raises:
            StateError: As `run`, and for a device that the run has not seen.
        """

        def answer(ledger: Ledger) -> dict[str, Any]:
            found = device_facts(ledger, name)
            return found | {"device": self._now([found["device"]])[0]}

        return self._ask(f"device {name}", answer)

    def round(self, no: int) -> dict[str, Any]:
        """One round: cohort, deadline, coverage.

        Raises:
            StateError: As `run`, and for a round that has not begun.
        """
        return self._ask(f"round {no}", lambda ledger: round_facts(ledger, no))

    def warm_up(self) -> dict[str, Any]:
        """Layer densities, as measured and after recalibration.

        Raises:
            StateError: As `run`, and before the masks are drawn.
        """
        return self._ask("warm-up", warm_up_facts)

    def exports(self) -> dict[str, Any]:
        """Files to download, each with its checks and a command; how to make some."""
        model = shlex.quote(str(self._folder / MODELS / "density-DENSITY.safetensors"))
        watch = f"flash-coordinator status {shlex.quote(str(self._folder))} --live"
        return {
            "files": [self._export(path) for path in self._files()],
            "commands": [
                {"what": "until then", "command": watch},
                {"what": "export", "command": f"flash-export build {model}"},
            ],
        }

    def report(self) -> str:
        """The report of the run as it stands, one HTML document.

        Raises:
            StateError: As `run`.
            SettingsError: As `run`.
        """
        # Late: the report stands on this module.
        from coordinator.views.report.document import render  # noqa: PLC0415
        from coordinator.views.report.write import gather  # noqa: PLC0415

        return render(gather(self._folder))

    def file(self, wanted: str) -> Path | None:
        """A file that `exports` lists; None for any other."""
        return next((p for p in self._files() if self._name(p) == wanted), None)

    def settings(self) -> dict[str, Any]:
        """The settings as they took effect, without a broker's password.

        Raises:
            StateError: If there is no ``run.toml``.
            SettingsError: If it cannot be read.
        """
        found: dict[str, Any] = msgspec.to_builtins(self._run_settings(), enc_hook=str)
        if found["broker"]:
            found["broker"] = parse_url(found["broker"]).url
        return found

    # -- ledger ------------------------------------------------------------------------

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
            self._ledger = read_ledger(self._folder)
        return self._ledger

    def _version(self) -> object:
        try:
            return self._open().data_version(), self._runs()
        except EdgeError as error:  # not begun, or of another version: said by `run`
            return str(error)

    def _now(self, devices: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Nobody is known to be online where no coordinator hears them go."""
        return devices if self._runs() else [d | {"online": False} for d in devices]

    def _run_settings(self) -> RunSettings:
        if self._settings is None:
            path = self._folder / "run.toml"
            if not path.exists():
                raise StateError(
                    f"{path} does not exist",
                    remedy="Name the folder that `flash-coordinator init` wrote.",
                )
            self._settings = load_run(path)
        return self._settings

    # -- files -------------------------------------------------------------------------

    def _files(self) -> list[Path]:
        found = [
            *(self._folder / MODELS).glob("density-*"),  # exports lie beside, too
            *(self._folder / EXPORTS).rglob("*"),
        ]
        inside = self._folder.resolve()
        return sorted(
            p
            for p in found
            if p.is_file()
            and not p.name.startswith(".")
            and p.resolve().is_relative_to(inside)
        )

    def _name(self, path: Path) -> str:
        return path.relative_to(self._folder).as_posix()

    def _export(self, path: Path) -> dict[str, Any]:
        return {
            "path": self._name(path),
            "size": path.stat().st_size,
            "sha256": self._digest(path),
            "checks": _checks(path.with_suffix(".json")) if _is_model(path) else [],
            "command": self._command(path),
        }

    def _command(self, path: Path) -> str:
        """What checks a file, or makes one of it that can be checked."""
        here = shlex.quote(str(path))
        if path.suffix == ".safetensors":
            return f"flash-export build {here}"
        if (path.parent / "manifest.json").exists():  # of a bundle: checked whole
            return f"flash-export verify {shlex.quote(str(path.parent))}"
        for checkpoint in (self._folder / MODELS).glob("density-*.safetensors"):
            if _is_model(path) and path.name.startswith(f"{checkpoint.stem}."):
                given = f"--checkpoint {shlex.quote(str(checkpoint))}"
                return f"flash-export verify {here} {given}"
        return f"sha256sum {here}"

    def _runs(self) -> bool:
        """Whether a coordinator runs here.

        Asked several times a second: the lock, which a coordinator that starts wants
        for itself, is only tried where the process that wrote it is alive.
        """
        try:
            pid = int((self._folder / "lock").read_text(encoding="ascii"))
        except (OSError, ValueError):
            return False
        return psutil.pid_exists(pid) and holder(self._folder) is not None

    def _digest(self, path: Path) -> str:
        stat = path.stat()
        key = str(path), stat.st_mtime_ns, stat.st_size
        if key not in self._digests:
            digest = hashlib.sha256()
            with path.open("rb") as file:
                while block := file.read(1 << 20):
                    digest.update(block)
            self._digests[key] = digest.hexdigest()
        return self._digests[key]


def _is_model(path: Path) -> bool:
    """Whether a file is an exported model, by its name."""
    return path.suffix in EXPORTED


def _checks(report: Path) -> list[tuple[str, str]]:
    """The findings that the export command wrote beside a file."""
    try:
        findings = json.loads(report.read_text(encoding="utf-8"))["findings"]
        return [
            (name, ", ".join(f"{k} {v}" for k, v in sorted(found.items())))
            for name, found in sorted(findings.items())
        ]
    except (OSError, ValueError, KeyError, AttributeError):
        return []
