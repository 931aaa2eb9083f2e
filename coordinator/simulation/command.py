"""`flash-coordinator simulate`: settings put together, rounds shown as they end."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal

import msgspec

from coordinator.simulation.presets import PRESETS
from coordinator.simulation.record import RoundRecord
from coordinator.simulation.run import load_simulation, simulate
from coordinator.simulation.settings import SimulationSettings
from coordinator.simulation.workers.interface import OpenWorkers
from coordinator.simulation.workers.process_pool import process_pool
from coordinator.simulation.workers.ray_pool import import_ray, ray_pool
from coordinator.views.units import human_bytes
from device_profiles.words import meant
from edge_sdk.errors import SettingsError
from edge_sdk.settings import explained, seen_from
from edge_sdk.terminal import log_from_now_on
from edge_sdk.toml_file import load_toml

__all__ = ["run_simulation", "settings_from", "workers_from"]

log = logging.getLogger(__name__)


def settings_from(
    folder: Path, preset: str | None, file: Path | None, flags: Mapping[str, Any]
) -> SimulationSettings:
    """A preset, over it a TOML file, over both the flags that were given.

    With none of them the folder's own settings: that is how a run goes on.

    Raises:
        SettingsError: For an unknown preset or key, or a value that cannot be.
    """
    given = {key: value for key, value in flags.items() if value is not None}
    if preset is None and file is None:
        known = load_simulation(folder)
        if known is None:
            raise SettingsError(
                f"{folder} holds no simulation yet",
                remedy="Name --settings FILE or --preset: " + ", ".join(PRESETS) + ".",
            )
        raw = msgspec.to_builtins(known)
    elif preset is not None and preset not in PRESETS:
        raise SettingsError(
            f"there is no preset {preset!r}{meant(preset, PRESETS)}",
            remedy=f"Choose one of {', '.join(PRESETS)}.",
        )
    else:
        raw = dict(PRESETS[preset]) if preset else {}
        raw = _merged(raw, _from_file(file) if file else {})
    try:
        return msgspec.convert({**raw, **given}, SimulationSettings)
    except msgspec.ValidationError as error:
        where = file or (f"preset {preset}" if preset else folder)
        raise SettingsError(
            f"{where}: {explained(error, SimulationSettings)}"
        ) from error


def _from_file(path: Path) -> dict[str, Any]:
    """Settings from a TOML file; relative paths in it are made absolute.

    They are looked for as a task is: from the file's own folder, then from the current.
    """
    raw = load_toml(path)
    for key in ("folder", "start"):
        if isinstance(raw.get(key), str) and raw[key]:
            beside, here = (
                seen_from(base, raw[key]) for base in (path.resolve().parent, Path())
            )
            raw[key] = str(here if here.exists() and not beside.exists() else beside)
    return raw


def workers_from(pool: Literal["processes", "ray"], ray_address: str) -> OpenWorkers:
    """The function that starts the workers that the flags name.

    Raises:
        SettingsError: If a cluster is named that is not asked for.
        DependencyError: If Ray is asked for and is not installed.
    """
    if pool == "ray":
        import_ray()  # refused before any data are prepared
        return partial(ray_pool, address=ray_address)
    if ray_address:
        raise SettingsError(
            f"--ray-address {ray_address} is given without --pool ray",
            remedy="Add --pool ray, or leave the address out.",
        )
    return process_pool


def run_simulation(
    folder: Path,
    settings: SimulationSettings,
    worker_count: int,
    open_workers: OpenWorkers,
    transport: str,
) -> tuple[dict[str, Any], str]:
    """Runs it and logs after every round where it stands.

    Returns:
        How it ended, as plain values and in words for people.
    """
    log_from_now_on(run=folder.resolve().name)
    records = simulate(
        folder,
        settings,
        worker_count=worker_count,
        open_workers=open_workers,
        transport=transport,
        observe=_say,
    )
    last = records[-1]
    facts = {
        "algorithm": settings.algorithm,
        "seed": settings.seed,
        "metrics": str(folder / "metrics.jsonl"),
        "last": msgspec.to_builtins(last),
    }
    told = (
        f"{settings.algorithm}: {last.round} rounds, {_scores(last)}, "
        f"{human_bytes(last.total_up)} up, {human_bytes(last.total_down)} down\n"
        f"every round: {folder / 'metrics.jsonl'}"
    )
    return facts, told


def _say(record: RoundRecord) -> None:
    name = f"round {record.round}" if record.round else "plan"
    what = record.note or _scores(record)
    log.info(
        "%s: %s (%.1f s)",
        *(name, what or "done", record.wall_s),
        extra={"round": record.round},
    )
    if record.wire is not None:
        wire = record.wire
        log.info(
            "on the wire: %s up and %s down, of them packed %s and %s",
            *map(human_bytes, (wire.stream_up, wire.stream_down)),
            *map(human_bytes, (wire.packed_up, wire.packed_down)),
            extra={"round": record.round},
        )


def _scores(record: RoundRecord) -> str:
    return ", ".join(
        f"d = {density}: " + " ".join(f"{n} {v:.4g}" for n, v in found.items())
        for density, found in record.scores.items()
    )


def _merged(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    both = {**under, **over}
    for key, value in over.items():
        if isinstance(value, dict) and isinstance(under.get(key), dict):
            both[key] = {**under[key], **value}
    return both
