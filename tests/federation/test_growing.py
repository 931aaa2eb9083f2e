"""A device whose data grow while the run goes on, and that rests while they do not."""

from __future__ import annotations

import html
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coordinator.ledger import read_ledger
from coordinator.settings import load_run
from coordinator.views.ledger_view import read_run
from coordinator.views.page.advice import next_step
from coordinator.views.page.metrics import exposition
from coordinator.views.report import write_report
from edge_sdk.datasets.partition import load_partition, save_partition
from edge_sdk.settings import DeviceSettings, load_settings
from edge_sdk.tasks.task import Examples

pytestmark = pytest.mark.broker

Make = Callable[..., Any]


def trained(run: Path, device: str) -> list[int]:
    """The examples of each update of a device that is in a model, round by round."""
    ledger = read_ledger(run)
    try:
        rows = (
            row
            for no in range(1, ledger.rounds_done() + 1)
            for row in ledger.frozen(no)
        )
        return [row.examples for row in rows if row.device == device]
    finally:
        ledger.close()


def test_new_data_are_trained_on_and_a_device_without_any_rests(
    federation: Make,
) -> None:
    fleet = federation(rounds=0)
    path = fleet.run / "run.toml"
    whole = path.read_text().replace("max_steps = 25", 'schedule = "constant"')
    path.write_text('algorithm = "erk"\n' + whole)
    own = fleet.folder / "pi-1.toml"
    own.write_text('when = "new-data"\nkeep = "300 examples"\n' + own.read_text())
    data = load_settings(own, DeviceSettings).data
    before = load_partition(data)
    few = before.take(slice(0, 100))
    save_partition(data, few)
    fleet.start("coordinator", "run", str(fleet.run))
    fleet.start_devices()
    fleet.wait(lambda: fleet.rounds_done() >= 3, "round 3")
    assert trained(fleet.run, "pi-1") == [100]  # the others went on
    assert len(trained(fleet.run, "pi-2")) >= 3
    assert "no new examples since its last update" in str(fleet.summary())
    twice = Examples(
        np.concatenate([before.inputs] * 2), np.concatenate([before.targets] * 2)
    )
    save_partition(data, twice)
    fleet.wait(lambda: 300 in trained(fleet.run, "pi-1"), "its new examples")


def test_sources_that_fail_in_mid_run_are_named_wherever_people_look(
    federation: Make,
) -> None:
    fleet = federation(rounds=0)
    path = fleet.run / "run.toml"
    whole = path.read_text().replace("max_steps = 25", 'schedule = "constant"')
    path.write_text('algorithm = "erk"\n' + whole)
    files = {
        name: load_settings(fleet.folder / f"{name}.toml", DeviceSettings).data
        / "train.npz"
        for name in ("pi-1", "pi-2")
    }
    kept = files["pi-1"].read_bytes()
    fleet.start("coordinator", "run", str(fleet.run))
    fleet.start_devices()
    fleet.wait(lambda: fleet.rounds_done() >= 1, "round 1")
    files["pi-1"].unlink()  # a disk that is away
    none = np.load(files["pi-2"])
    np.savez(files["pi-2"], **{name: none[name][:0] for name in none.files})

    def errors() -> dict[str, str | None]:
        return {d["name"]: d["data_error"] for d in fleet.summary()["devices"]}

    fleet.wait(lambda: all(errors()[name] for name in files), "both errors")
    found = errors()
    assert found["orin-1"] is None
    for name, file in files.items():
        assert str(file.parent) in str(found[name])
        assert "examples of before stay" in str(found[name])
    done = fleet.rounds_done()
    fleet.wait(lambda: fleet.rounds_done() >= done + 2, "rounds after it")
    ledger = read_ledger(fleet.run)
    with closing(ledger):
        view = read_run(load_run(path), ledger)
    figures = exposition(view).decode()
    assert 'device_data_unreadable{device="pi-1"} 1.0' in figures
    assert 'device_data_unreadable{device="orin-1"} 0.0' in figures
    advice = next_step(view, fleet.run, "", runs=True)["say"]
    assert "pi-1, pi-2: its data cannot be read: " in advice
    report = html.unescape(write_report(fleet.run).read_text())
    line = [sys.executable, "-m", "coordinator.cli", "devices", str(fleet.run)]
    terminal = subprocess.run(line, capture_output=True, text=True, check=True).stdout
    log = (fleet.folder / "coordinator.log").read_text()
    for text in (report, terminal, log):
        assert "examples of before stay" in " ".join(text.split())
        assert f"data{os.sep}pi-1" in text
    assert log.count("pi-1 trains on the data it had") == 1
    files["pi-1"].write_bytes(kept)
    fleet.wait(lambda: errors()["pi-1"] is None, "the source that is back")


def test_masks_are_drawn_again_where_classes_appear_late(federation: Make) -> None:
    fleet = federation(rounds=0)
    path = fleet.run / "run.toml"
    whole = path.read_text().replace("max_steps = 25", 'schedule = "constant"')
    path.write_text(
        'algorithm = "prunefl(shift=0.2)"\nholdout = 0.2\n'
        + whole.replace("densities = [0.1, 0.4]", "densities = [0.2]")
        + "[drift]\nreport = true\n"
    )
    late = {}
    for name in ("pi-1", "pi-2", "orin-1"):
        own = load_settings(fleet.folder / f"{name}.toml", DeviceSettings)
        data = load_partition(own.data)
        few = np.flatnonzero(data.targets < 4)
        save_partition(own.data, data.take(few))
        late[own.data] = data
    fleet.start("coordinator", "run", str(fleet.run))
    fleet.start_devices()

    def masks() -> dict[str, Any]:
        ledger = read_ledger(fleet.run)
        try:
            kept = ledger.get("redrawn") or {"round": 0}
            closed = {r.no for r in ledger.rounds() if r.model}
            return {**kept, "closed": kept["round"] in closed}
        finally:
            ledger.close()

    fleet.wait(lambda: fleet.rounds_done() >= 3, "round 3")
    assert masks()["round"] == 0  # nothing has drifted
    assert not list((fleet.run / "checkpoints").glob("*.masks"))
    for folder, data in late.items():
        save_partition(folder, data)
    fleet.wait(lambda: masks()["round"] and masks()["closed"], "new masks")
    done = fleet.rounds_done()
    fleet.wait(lambda: fleet.rounds_done() > done, "a round on them")
    assert list((fleet.run / "checkpoints").glob("*.masks"))
    assert "draws masks again" in (fleet.folder / "coordinator.log").read_text()
