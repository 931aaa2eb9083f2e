"""Facts of a report, read at one moment."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from coordinator.views.exports import FileView
from coordinator.views.layers import WarmUpView
from coordinator.views.round_view import RoundHistory
from coordinator.views.run_view import RunView
from coordinator.views.source import RunSource
from edge_sdk.errors import StateError

__all__ = ["ReportFacts", "gather"]


@dataclass(frozen=True, slots=True)
class ReportFacts:
    """Facts that a report is made of."""

    run: RunView  # the run
    warm_up: WarmUpView | None = None  # its layers; None before the masks are drawn
    last: RoundHistory | None = None  # the last round done; None before one is
    files: Sequence[FileView] = ()  # models and exports
    settings: Mapping[str, Any] | None = None  # as they took effect, without a password
    digest: str = ""  # SHA-256 of ``run.toml``, in hex


def gather(source: RunSource) -> ReportFacts:
    """Read all that a report shows.

    Raises:
        StateError: If the folder holds no run, or one of another version.
        SettingsError: If ``run.toml`` cannot be read.
    """
    run = source.run()
    done = [r.no for r in run.rounds if r.is_done and r.no > 0]
    return ReportFacts(
        run=run,
        warm_up=_or_none(source),
        last=source.round(done[-1]) if done else None,
        files=source.exports.all(),
        settings=source.shown_settings(),  # it is mailed: no password goes along
        digest=hashlib.sha256((source.folder / "run.toml").read_bytes()).hexdigest(),
    )


def _or_none(source: RunSource) -> WarmUpView | None:
    try:
        return source.warm_up()
    except StateError:  # the masks are not drawn yet
        return None
