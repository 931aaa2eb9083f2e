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
from without_torch import boards_without_torch

from coordinator.ledger import read_ledger
from coordinator.settings import load_run
from coordinator.views.ledger_view import read_run
from coordinator.views.page.advice import next_step
from coordinator.views.page.metrics import exposition
from coordinator.views.report import write_report
from edge_sdk.datasets.partition import load_partition, save_partition
from edge_sdk.kernels.library import unavailable_reason
from edge_sdk.settings import DeviceSettings, load_settings
from edge_sdk.tasks.task import Examples

pytestmark = [
    pytest.mark.broker,
    pytest.mark.skipif(bool(unavailable_reason()), reason="no kernels here"),
]
DEVICES = ("pi-1", "pi-2", "orin-1")

Make = Callable[..., Any]


def endless(federation: Make, first: str = 'algorithm = "erk"', more: str = "") -> Any:
    """A run without a last round, on boards without torch: they start soonest."""
    fleet = federation(rounds=0)
    path = fleet.run / "run.toml"
    whole = path.read_text().replace("max_steps = 25", 'schedule = "constant"')
    path.write_text(f"{first}\n{whole}{more}")
    boards_without_torch(fleet, *DEVICES)
    return fleet


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
    fleet = endless(federation)
    own = fleet.folder / "pi-1.toml"
    own.write_text('when = "new-data"\nkeep = "300 examples"\n' + own.read_text())
    data = load_settings(own, DeviceSettings).data
    before = load_partition(data)
    few = before.take(slice(0, 100))
    save_partition(data, few)
    fleet.start("coordinator", "run", str(fleet.run))
    fleet.start_devices()
    fleet.wait(lambda: fleet.rounds_done() >= 1, "round 1")
    fleet.wait(lambda: trained(fleet.run, "pi-1"), "its first update")
    fleet.wait(lambda: len(trained(fleet.run, "pi-2")) >= 3, "the others to go on")
    rests = "no new examples since its last update"
    fleet.wait(lambda: rests in str(fleet.summary()), "its word")
    assert trained(fleet.run, "pi-1") == [100]
    twice = Examples(
        np.concatenate([before.inputs] * 2), np.concatenate([before.targets] * 2)
    )
    save_partition(data, twice)
    fleet.wait(lambda: 300 in trained(fleet.run, "pi-1"), "its new examples")


def test_a_device_whose_source_is_away_when_it_starts_takes_part_once_it_is_back(
    federation: Make,
) -> None:
    fleet = endless(federation)
    data = load_settings(fleet.folder / "pi-1.toml", DeviceSettings).data
    away = data.rename(data.with_name("away"))
    fleet.start("coordinator", "run", str(fleet.run))
    fleet.start_devices()

    def own() -> dict[str, Any]:
        devices = fleet.summary()["devices"]
        return next((d for d in devices if d["name"] == "pi-1"), {})

    fleet.wait(lambda: fleet.rounds_done() >= 1, "a round of the others")
    fleet.wait(lambda: own().get("data_error"), "its word")
    assert own()["data_error"].startswith("there are no examples: ")
    assert str(data) in own()["data_error"]
    assert trained(fleet.run, "pi-1") == []
    for command in ("status", "devices"):
        line = [sys.executable, "-m", "coordinator.cli", command, str(fleet.run)]
        text = subprocess.run(line, capture_output=True, text=True, check=True).stdout
        assert "there are no examples" in " ".join(text.split())
    ledger = read_ledger(fleet.run)
    with closing(ledger):
        view = read_run(load_run(fleet.run / "run.toml"), ledger)
    advice = next_step(view, fleet.run, "", runs=True)["say"]
    assert "pi-1: its data cannot be read: there are no examples" in advice
    away.rename(data)
    fleet.wait(lambda: trained(fleet.run, "pi-1"), "its first update")
    # The ledger has its word no sooner than its next write of statuses.
    fleet.wait(lambda: own()["data_error"] is None, "its word that all is well")
    fleet.wait(lambda: own()["examples"] > 0, "its examples")


MAPPED = """
from dataclasses import replace

from edge_sdk.datasets.growing import mapped_npz
from edge_sdk.zoo.tasks.digits import task as digits

task = replace(digits, train_data=lambda folder: mapped_npz(folder / "train.npz"))
"""


def test_sources_that_fail_in_mid_run_are_named_wherever_people_look(
    federation: Make,
) -> None:
    fleet = endless(federation)
    (fleet.folder / "mapped.py").write_text(MAPPED)
    path = fleet.run / "run.toml"
    for settings in (path, *fleet.folder.glob("*-1.toml"), fleet.folder / "pi-2.toml"):
        text = settings.read_text().replace('task = "digits"', 'task = "mapped:task"')
        settings.write_text(text)
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
    with np.load(files["pi-2"]) as was:
        none = {name: was[name][:0] for name in was.files}
    np.savez(files["pi-2"], **none)  # in place: a page of it that is read kills

    def errors() -> dict[str, str | None]:
        return {d["name"]: d["data_error"] for d in fleet.summary()["devices"]}

    fleet.wait(lambda: all(errors()[name] for name in files), "both errors")
    found = errors()
    assert found["orin-1"] is None
    for name, file in files.items():
        assert str(file.parent) in str(found[name])
    assert "examples of before stay" in str(found["pi-1"])
    assert f"no examples are left, {files['pi-2']} was written" in str(found["pi-2"])
    assert "there are no examples. Put the examples where" in str(found["pi-2"])
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
        assert f"data{os.sep}pi-1" in "".join(text.split())  # wrapped anywhere
        assert "no examples are left" in " ".join(text.split())
    assert log.count("the data of pi-1 cannot be read anew") == 1
    files["pi-1"].write_bytes(kept)
    fleet.wait(lambda: errors()["pi-1"] is None, "the source that is back")
    assert all(fleet.processes[name].poll() is None for name in DEVICES)

    def fewer() -> bool:
        return len(trained(fleet.run, "pi-2")) < len(trained(fleet.run, "orin-1"))

    fleet.wait(fewer, "rounds of the one that has examples")


def test_masks_are_drawn_again_where_classes_appear_late(federation: Make) -> None:
    fleet = endless(
        federation,
        'algorithm = "prunefl(shift=0.2)"\nholdout = 0.2',
        more="[drift]\nreport = true\n",
    )
    path = fleet.run / "run.toml"
    path.write_text(path.read_text().replace("[0.1, 0.4]", "[0.2]"))
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
