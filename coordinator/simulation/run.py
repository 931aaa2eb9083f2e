"""A simulation from its first round to its last, in a folder that can be left."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

import msgspec

from coordinator.algorithms.base import Algorithm
from coordinator.simulation.data.folders import places_of, task_of
from coordinator.simulation.dispatch import DirectDispatch, Dispatch
from coordinator.simulation.mqtt.open import check_reachable, check_transport, over_mqtt
from coordinator.simulation.record import RoundRecord, completed, read_records
from coordinator.simulation.rounds import Simulation
from coordinator.simulation.settings import (
    SimulationSettings,
    check_simulation,
    todays_name,
)
from coordinator.simulation.workers.engine import engine_for
from coordinator.simulation.workers.interface import OpenWorkers
from coordinator.simulation.workers.process_pool import check_importable, process_pool
from edge_sdk.checkpoint import replace_file
from edge_sdk.errors import SettingsError, StateError
from edge_sdk.tasks.parts.run_task import run_task
from edge_sdk.tasks.task import Task

__all__ = ["SETTINGS", "load_simulation", "simulate"]

log = logging.getLogger(__name__)

SETTINGS = "settings.json"
GATE = "gate"
IN_FULL = {"clip": 0.0, "weight": 0.0, "influence": 0.0}  # where a file has no gate


def simulate(
    folder: Path,
    settings: SimulationSettings,
    *,
    worker_count: int,
    open_workers: OpenWorkers = process_pool,
    transport: str = "",
    cache: Path | None = None,
    observe: Callable[[RoundRecord], None] = lambda _: None,
    task: Task | None = None,
    algorithm: Algorithm | None = None,
) -> list[RoundRecord]:
    """Runs a simulation in a folder to its end, or goes on with it.

    Args:
        folder: Settings, metrics and checkpoints; made if missing.
        settings: The run; those of the folder, if it has some.
        worker_count: Workers that train, 0 for one per core; the result does not
            depend on it.
        open_workers: Starts them, as processes of this machine or by Ray.
        transport: Empty hands orders over; ``mqtt`` takes them through a broker that is
            started here, a URL through that one. The model does not depend on it.
        cache: Where fetched and partitioned data stay.
        observe: Told of every round.
        task: What is trained, where the settings' reference cannot be loaded; the
            workers have to know it, too.
        algorithm: How, where the settings' name cannot be loaded.

    Returns:
        Every round's record.

    Raises:
        StateError: If the folder holds a run with other settings.
        EdgeError: If the run cannot start, a worker dies, or too many rounds abort.
    """
    check_simulation(settings, algorithm)
    check_transport(transport)
    if settings.partitions and transport:
        raise SettingsError(
            "key partitions: devices on a broker read examples by the task itself",
            remedy="Simulate without --transport, or let the task read the files.",
        )
    if not _is_over(folder, settings):
        check_reachable(transport)
    task = run_task(task or task_of(settings), settings)
    if open_workers is process_pool:
        check_importable(settings.task)
    name = todays_name(settings.engine)
    settings, known = _claim(folder, msgspec.structs.replace(settings, engine=name))
    folders, evaluation = places_of(settings, cache=cache, progress=log.info)
    simulation = Simulation(
        folder, settings, folders, evaluation, task=task, algorithm=algorithm
    )
    _check_devices(folders, simulation.journal.records)
    if simulation.done:
        engine = None
    else:
        engine = engine_for(task, settings.engine, simulation.scored, folder)
        settings = msgspec.structs.replace(settings, engine=engine.name)
    if settings != known:  # the engine is decided, or the examples lie elsewhere by now
        _write(folder, settings)
    if engine is None:
        return simulation.journal.records
    with ExitStack() as stack:
        opening = open_workers(
            *(worker_count, settings.task, evaluation, engine),
            partitions=settings.partitions,
        )
        pool = stack.enter_context(opening)
        way: Dispatch = DirectDispatch(pool)
        if transport:
            fleet, rounds = simulation.fleet.devices, settings.rounds
            opened = over_mqtt(
                folder, transport, fleet, pool, task=settings.task, rounds=rounds
            )
            way = stack.enter_context(opened)
        while not simulation.done:
            observe(simulation.step(pool, way))
    return simulation.journal.records


def load_simulation(folder: Path) -> SimulationSettings | None:
    """The settings of a folder's run, or None if it holds none.

    Raises:
        StateError: If its settings cannot be read.
    """
    path = folder / SETTINGS
    if not path.exists():
        return None
    try:
        raw = _infinite({GATE: IN_FULL, **_raw(folder)}, SimulationSettings)
        found = msgspec.convert(raw, SimulationSettings)
        return msgspec.structs.replace(found, engine=todays_name(found.engine))
    except msgspec.MsgspecError as error:
        raise StateError(f"{path} cannot be read: {error}") from error


def _raw(folder: Path) -> dict[str, Any]:
    content = (folder / SETTINGS).read_bytes()
    return msgspec.json.decode(content, type=dict[str, Any])


def _infinite(raw: Any, kind: Any) -> Any:
    """Restore infinities in JSON: null becomes inf where the type forbids None."""
    if get_origin(kind) is list and isinstance(raw, list):
        return [_infinite(inner, get_args(kind)[0]) for inner in raw]
    if isinstance(raw, dict) and hasattr(kind, "__struct_fields__"):
        types = {f.encode_name: f.type for f in msgspec.structs.fields(kind)}
        return {key: _infinite(value, types.get(key)) for key, value in raw.items()}
    return math.inf if raw is None and _is_number(kind) else raw


def _is_number(kind: Any) -> bool:
    """Return whether a setting's type is a float, within bounds or not."""
    return kind is float or (get_origin(kind) is Annotated and kind.__origin__ is float)


def _claim(
    folder: Path, settings: SimulationSettings
) -> tuple[SimulationSettings, SimulationSettings]:
    """The settings to go on with, and those that the folder holds."""
    before = load_simulation(folder)
    if before is None:
        folder.mkdir(parents=True, exist_ok=True)
        _write(folder, settings)
        return settings, settings
    if GATE not in _raw(folder):  # begun when updates counted in full: it goes on so
        settings = msgspec.structs.replace(settings, gate=before.gate)
    if settings.engine == "auto":  # it goes on with what it has begun with
        settings = msgspec.structs.replace(settings, engine=before.engine)
    _check_same(folder, before, settings)
    return settings, before


def _write(folder: Path, settings: SimulationSettings) -> None:
    text = msgspec.json.format(msgspec.json.encode(settings), indent=1)
    replace_file(folder / SETTINGS, text)


def _is_over(folder: Path, settings: SimulationSettings) -> bool:
    """Return whether the folder's run is complete and needs no broker any more."""
    return completed(read_records(folder)) >= settings.rounds


def _check_same(
    folder: Path, before: SimulationSettings, settings: SimulationSettings
) -> None:
    differ = [
        name
        for name in settings.__struct_fields__
        if name != "folder" and getattr(before, name) != getattr(settings, name)
    ]
    # The folder says where the examples lie: a run that was moved, or copied together
    # with them, goes on.
    # Another name beside the old one, which is still there, is other examples.
    old, new = Path(before.folder), Path(settings.folder)
    if bool(before.folder) != bool(settings.folder) or (
        old.name != new.name and old.is_dir()
    ):
        differ.append("folder")
    if differ:
        raise StateError(
            f"{folder} holds a simulation with other settings: {', '.join(differ)}",
            remedy="Choose another folder, or give only the folder to go on with it.",
        )


def _check_devices(folders: Mapping[str, Path], records: Sequence[RoundRecord]) -> None:
    missing = {name for record in records for name in record.accepted} - set(folders)
    if missing:
        raise StateError(
            f"{min(missing)} has trained in this run and has no examples any more",
            remedy="Name the folder that the run began with, or choose another run.",
        )
