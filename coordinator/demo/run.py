"""The demo: a whole federation on this machine, as real processes over real MQTT."""

from __future__ import annotations

import json
import logging
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from coordinator.demo.files import (
    ALPHA,
    DENSE_ROUNDS,
    DENSITIES,
    FLEET,
    SEED,
    device_names,
    write_dense,
    write_devices,
    write_run,
)
from coordinator.demo.table import closing_table
from coordinator.processes.children import ChildProcess, stop_all
from coordinator.views.report import write_report
from coordinator.views.terminal.status import has_run, summary
from edge_sdk.checkpoint import replace_file
from edge_sdk.child_process import child_module
from edge_sdk.datasets.prepare import EVALUATION_FOLDER, prepare_folders
from edge_sdk.errors import RunError
from edge_sdk.private_files import keep_private
from edge_sdk.terminal import Exit, on_stop, say, show, width

__all__ = ["run_demo"]

log = logging.getLogger(__name__)

RESTARTS = 5
# Starting again mends none of the errors that we know, a broker's absence aside.
FOR_GOOD = frozenset(code for code in Exit if code.kind) - {Exit.BROKER}
LET_END_S = 5.0  # for devices to hear that the run is done


def run_demo(folder: Path, *, task: str, rounds: int, as_json: bool) -> None:
    """Runs, or goes on with, the demo in a folder, and prints its closing table.

    Raises:
        RunError: If a process fails for good; its log is named.
    """
    keep_private(folder, ("*",))
    devices = device_names()
    data = _data(folder, task, devices)
    main, dense = folder / "federation", folder / "dense-reference"
    write_run(main, task, data, rounds)
    write_devices(folder, main, task, devices, data)
    stopped = _Stop()
    on_stop(stopped.set)
    began = time.monotonic()
    if not _done(main, rounds):
        _federate(folder, main, devices, stopped)
    log.info("federation done in %.0f s", time.monotonic() - began)
    write_dense(dense, main, task, data)
    pair = [next(n for n in devices if n.startswith(b.prefix)) for b in FLEET[:2]]
    if not _done(dense, DENSE_ROUNDS):
        write_devices(dense, dense, task, pair, data)
        log.info("measuring a dense federation's bytes: %d rounds", DENSE_ROUNDS)
        _federate(dense, dense, pair, stopped)
    reports = _export(main, data, stopped)
    both = summary(main), summary(dense)
    table = closing_table(*both, reports, rounds, width())
    report = write_report(main)
    facts = {
        "folder": str(main),
        "report": str(report),
        "run": both[0],
        "dense": both[1],
        "exports": {f"{density:g}": found for density, found in reports.items()},
    }
    show(facts, lambda: table, as_json=as_json)
    say(
        f"settings, ledger, checkpoints: {main}\nper-device data, state, logs: "
        f"{folder / 'devices'}\nexported models: {main / 'exports'}\n"
        f"report: {report}\n"
        f"status: flash-coordinator status {main}\n"
        f"page: flash-coordinator page {main}",
        aside=as_json,
    )


class _Stop:
    """Flag that Ctrl-C sets."""

    def __init__(self) -> None:
        self.now = False

    def set(self) -> None:
        self.now = True

    def check(self) -> None:
        if self.now:
            raise RunError(
                "the demo was stopped", remedy="The same command continues the run."
            )


def _data(folder: Path, task: str, devices: list[str]) -> Mapping[str, Path]:
    cache = Path("~/.cache/flash-edge").expanduser()
    log.info("data of task %s: fetching and partitioning (LDA, alpha %g)", task, ALPHA)
    return prepare_folders(
        task, cache, folder / "data", devices, alpha=ALPHA, seed=SEED, progress=log.info
    )


def _done(run: Path, rounds: int) -> bool:
    if not (run / "ledger.sqlite").exists():
        return False
    models = list((run / "models").glob("*.safetensors"))
    return bool(models) and summary(run)["rounds_done"] >= rounds


def _federate(folder: Path, run: Path, devices: list[str], stop: _Stop) -> None:
    """Runs coordinator and devices until the coordinator ends."""
    verb = "resume" if has_run(run) else "run"
    logs = folder / "devices"
    with _children() as children:
        coordinator = ChildProcess("flash-coordinator", [verb, str(run)], None)
        children.append(coordinator)
        for name in devices:
            settings = str(logs / f"{name}.toml")
            arguments = ["run", settings, "--until-done"]
            children.append(ChildProcess("flash-edge", arguments, logs / f"{name}.log"))
        while coordinator.alive():
            stop.check()
            time.sleep(0.2)
            for child in children[1:]:
                child.tend_log()
                _revive(child, logs)
    stop.check()
    if coordinator.process.returncode:
        raise RunError(
            f"{coordinator.name} ended with exit code {coordinator.process.returncode}",
            remedy="Its message is above; the same command continues.",
        )


def _revive(child: ChildProcess, logs: Path) -> None:
    """A device that died comes back, as under a service manager."""
    if child.alive() or child.process.returncode == 0:
        return
    if child.process.returncode in FOR_GOOD or child.starts > RESTARTS:
        raise RunError(
            f"{child.name} ended with exit code {child.process.returncode} "
            f"after {child.starts} starts",
            remedy=f"Read the end of its log in {logs}.",
        )
    child.start_again()


@contextmanager
def _children() -> Iterator[list[ChildProcess]]:
    """Whatever is started is stopped; after an orderly end it may end by itself."""
    children: list[ChildProcess] = []
    try:
        yield children
        until = time.monotonic() + LET_END_S
        while any(c.alive() for c in children) and time.monotonic() < until:
            time.sleep(0.05)
    finally:
        stop_all(children)


def _export(
    main: Path, data: Mapping[str, Path], stop: _Stop
) -> dict[float, dict[str, object]]:
    """One packed ONNX file per density, checked, by the export command."""
    out = main / "exports"
    out.mkdir(exist_ok=True)
    log.info("exporting %d models, each checked against torch", len(DENSITIES))
    running = {
        density: subprocess.Popen(  # noqa: S603 - our own module
            [
                *child_module("export.cli", "build"),
                str(main / "models" / f"density-{density:g}.safetensors"),
                *("--out", str(out / f"density-{density:g}.onnx")),
                *("--json", "--data", str(data[EVALUATION_FOLDER])),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            errors="replace",
        )
        for density in DENSITIES
    }
    reports: dict[float, dict[str, object]] = {}
    for density, process in running.items():
        said, err = process.communicate()
        stop.check()
        if process.returncode:
            raise RunError(f"the export at density {density:g} failed: {err[-800:]}")
        reports[density] = json.loads(said)
        replace_file(out / f"density-{density:g}.json", said.encode())
    return reports
