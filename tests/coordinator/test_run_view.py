"""A run's view: what is recorded of a device is shown without a copy by hand."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
from databases import opened
from past import Past
from typer.testing import CliRunner

import coordinator
from coordinator.cli import app
from coordinator.ledger import DeviceRow, open_ledger
from coordinator.ledger.device_rows import added_columns
from coordinator.views.device_view import device_json
from coordinator.views.source import RunSource
from edge_sdk.errors import StateError

PACKAGE = Path(coordinator.__file__).parent
# Where a fact of a device is recorded, and where a person sees it.
RECORDED = {"ledger/device_rows.py", "ledger/fleet_pages.py", "ledger/schema.py"}
SHOWN = {
    "views/terminal/device_table.py",
    "views/terminal/history_tables.py",
    "views/page/metrics.py",
    "views/report/tables.py",
}
USES_IT = """
import json, sys
from pathlib import Path
from typer.testing import CliRunner
from coordinator.cli import app
from coordinator.ledger import open_ledger
run = sys.argv[1]
ledger = open_ledger(Path(run))
ledger.count_traffic("pi-0001", battery_percent=87.5)
ledger.settle()
for line in (["devices", run], ["devices", run, "pi-0001"], ["status", run]):
    print(CliRunner().invoke(app, [*line, "--json"]).stdout.replace("\\n", ""))
ledger.close()
"""


@pytest.fixture
def run(tmp_path: Path) -> Path:
    past = Past(tmp_path / "run", devices=2)
    past.hello()
    past.begin(1)
    past.ledger.close()
    return past.folder


def test_one_more_field_of_a_device_is_a_column_and_in_all_json(
    run: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "lib" / "coordinator"
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    path = copy / "ledger" / "device_rows.py"
    text = path.read_text("utf-8")
    (last,) = re.findall(r"^    refused: int = 0.*\n", text, re.MULTILINE)
    more = f"{last}    battery_percent: float | None = None\n"
    path.write_text(text.replace(last, more), "utf-8")
    done = subprocess.run(
        [sys.executable, "-c", USES_IT, run],
        cwd=copy.parent,  # first in the path
        env=os.environ | {"PYTHONPATH": str(copy.parent)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    listed, one, status = map(json.loads, done.stdout.splitlines())
    for devices in (listed, [one["device"]], status["devices"]):
        found = {d["name"]: d["battery_percent"] for d in devices}
        assert found.pop("pi-0001") == 87.5
        assert set(found.values()) <= {None}
    names = [d["name"] for d in RunSource(run).run().as_json()["devices"]]
    assert names == ["pi-0000", "pi-0001"]  # the version before reads it, too
    open_ledger(run).close()


@pytest.mark.parametrize("fact", ["rss_mib", "celsius", "received", "engine"])
def test_no_module_between_ledger_and_display_names_a_fact(fact: str) -> None:
    among = [p for room in ("ledger", "views") for p in (PACKAGE / room).rglob("*.py")]
    naming = {
        path.relative_to(PACKAGE).as_posix()
        for path in among
        if re.search(rf"\b{fact}\b", path.read_text("utf-8"))
    }
    reasons = (
        {"views/ledger_view.py", "views/savings.py"} if fact == "engine" else set()
    )
    assert naming - reasons <= RECORDED | SHOWN


def test_every_column_of_a_device_is_in_its_json(run: Path) -> None:
    with opened(run / "ledger.sqlite") as db:
        columns = {row[1] for row in db.execute("PRAGMA table_info(devices)")}
    assert set(added_columns()) <= columns
    (device, _) = RunSource(run).run().devices
    shown = columns - {"profile", "note", "data_first"} | {"waits"}
    assert shown <= set(device_json(device))
    assert {f.name for f in fields(DeviceRow)} >= columns


@pytest.mark.parametrize(
    ("column", "bad"), [("sent", "many"), ("online", "perhaps"), ("celsius", "warm")]
)
def test_a_column_that_was_edited_by_hand_is_said_with_the_file(
    run: Path, column: str, bad: str
) -> None:
    with opened(run / "ledger.sqlite") as db:
        db.execute(f"UPDATE devices SET {column} = ?", (bad,))  # noqa: S608 - ours
    with pytest.raises(StateError, match=r"ledger\.sqlite is damaged.*" + column):
        RunSource(run).run()


def test_a_devices_own_page_counts_the_refusals_that_the_list_counts(
    run: Path,
) -> None:
    ledger = open_ledger(run)
    for verdict in ("late", "clipped", "malformed", "rejected"):
        ledger.refuse("pi-0001", 1, verdict, "why")
    ledger.close()
    ask = CliRunner().invoke
    one = json.loads(ask(app, ["devices", str(run), "pi-0001", "--json"]).stdout)
    listed = json.loads(ask(app, ["devices", str(run), "--json"]).stdout)
    assert one["device"]["refused"] == listed[1]["refused"] == 1
    assert len(one["refusals"]) == 4
