"""Writes the report of a run from its ledger: the same ledger, the same bytes."""

from __future__ import annotations

import logging
from pathlib import Path

from coordinator.views.report.facts import gather
from coordinator.views.source import RunSource
from coordinator.views.terminal.status import has_run
from edge_sdk.checkpoint import replace_file
from edge_sdk.errors import DependencyError, EdgeError

__all__ = ["REPORT_FILE", "leave_report", "write_report"]

log = logging.getLogger(__name__)
REPORT_FILE = "report.html"


def write_report(folder: Path, output: Path | None = None) -> Path:
    """Writes the report of a run, also while it runs.

    Args:
        folder: The run's folder.
        output: The file; None for ``report.html`` in the folder.

    Returns:
        The file.

    Raises:
        StateError: If the folder holds no run, or one of another version.
        SettingsError: If ``run.toml`` cannot be read.
        DependencyError: If jinja2 is not installed.
        CheckpointError: If the file cannot be written.
    """
    try:
        from coordinator.views.report.document import render  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise DependencyError(
            f"the report needs {error.name}: pip install 'flash-edge[coordinator]'"
        ) from error
    path = output or folder / REPORT_FILE
    replace_file(path, render(gather(RunSource(folder))).encode())
    return path


def leave_report(folder: Path) -> None:
    """Writes the report at the end of a run; what hinders it is said, never raised."""
    try:
        if has_run(folder):
            log.info("report: %s", write_report(folder))
    except EdgeError as error:
        log.warning("no report was written: %s", error)
