"""A run's files to download: each with its digest, its checks and a command."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from edge_sdk.checksums import file_digest

__all__ = ["Exports", "FileView"]

EXPORTS, MODELS = "exports", "models"
EXPORTED = (".onnx", ".ort", ".flsp", ".pte", ".tflite")


@dataclass(frozen=True, slots=True)
class FileView:
    """One file."""

    path: str  # in the run's folder
    size: int  # bytes
    sha256: str  # of its content, in hex
    checks: list[tuple[str, str]]  # what the export found, by name, in words
    command: str  # what checks it, or makes one of it that can be checked


class Exports:
    """The models and exports in a run's folder.

    An export may replace a bundle meanwhile: what is gone once it is looked at is
    left out.

    Args:
        folder: The run's.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._digests: dict[tuple[str, int, int], str] = {}

    def all(self) -> list[FileView]:
        """Every file, by path."""
        views = map(self._view, self._files())
        return [view for view in views if view is not None]

    def file(self, wanted: str) -> Path | None:
        """A file of `all`; None for any other."""
        return next((p for p in self._files() if self._name(p) == wanted), None)

    def _files(self) -> list[Path]:
        found = [
            *(self._folder / MODELS).glob("density-*"),  # exports lie beside, too
            *_below(self._folder / EXPORTS),
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

    def _view(self, path: Path) -> FileView | None:
        try:
            size, digest = path.stat().st_size, self._digest(path)
        except FileNotFoundError:
            return None
        return FileView(
            path=self._name(path),
            size=size,
            sha256=digest,
            checks=_checks(path.with_suffix(".json")) if _is_model(path) else [],
            command=self._command(path),
        )

    def _command(self, path: Path) -> str:
        """Command that checks a file, or exports it so that it can be checked."""
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

    def _digest(self, path: Path) -> str:
        stat = path.stat()
        key = str(path), stat.st_mtime_ns, stat.st_size
        if key not in self._digests:
            self._digests[key] = file_digest(path)
        return self._digests[key]


def _below(top: Path) -> Iterator[Path]:
    """Files under a folder, without those of hidden folders: bundles being written."""
    for folder, inside, names in os.walk(top):
        inside[:] = [name for name in inside if not name.startswith(".")]
        yield from (Path(folder, name) for name in names)


def _is_model(path: Path) -> bool:
    """Return whether a file is an exported model, by its name."""
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
