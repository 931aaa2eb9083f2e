"""The report of a run: one file, in a real browser, at every stage of a run."""

from __future__ import annotations

import hashlib
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from coordinator.cli import app
from coordinator.ledger import open_ledger
from coordinator.report import leave_report, write_report
from coordinator.report.charts import Rows, curves, ticks
from edge_sdk.errors import StateError


def test_the_report_shows_what_the_run_did_without_asking_anybody(past, tab) -> None:
    path = past.folder / "models" / "density-0.05.safetensors"
    path.parent.mkdir()
    path.write_bytes(b"a model")
    tab.goto(write_report(past.folder).as_uri())
    assert tab.inner_text(".state") == "round 3: 1 of 4 updates"
    assert tab.locator("svg.chart").count() == 4
    for series in ("path.s0", "path.s1"):  # two densities over two scored rounds
        drawn = tab.locator(f"svg.chart >> nth=0 >> {series}").get_attribute("d")
        assert len(re.findall(r"[ML]", drawn)) == 2
    said = tab.inner_text("main")
    for expected in (
        "2 of 3",
        "90.00 %",
        "pi-0003",
        "its norm is not finite",
        "conv1.weight",
        "15 (15.00 %)",
        "4: 4.00 %, 2: 12.00 %, 0: 84.00 %",  # coverage of fc.weight
        "training.rate",
        hashlib.sha256(b"a model").hexdigest(),
    ):
        assert expected in said, expected
    assert "<b>more</b>" in said  # text of a device is never markup


def test_it_works_before_the_first_round_and_without_devices(
    tmp_path, tab, make_past
) -> None:
    past = make_past(tmp_path / "run", 0)
    tab.goto(write_report(past.folder).as_uri())
    said = tab.inner_text("main")
    for expected in (
        "No round has begun yet",
        "No device has said hello yet",
        "Nothing measured yet",
        "masks of this run are not drawn yet",
    ):
        assert expected in said


def test_it_has_no_accessibility_violation_in_light_and_dark(past, tab) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    path = write_report(past.folder)
    for scheme in ("light", "dark"):
        tab.emulate_media(color_scheme=scheme)
        tab.goto(path.as_uri())
        found = axe.run(tab)
        assert found.violations_count == 0, found.generate_report()


def test_nothing_in_it_points_anywhere_else(past) -> None:
    text = write_report(past.folder).read_text(encoding="utf-8")
    assert not re.search(
        r"""\b(src|href|url)\b\s*[=(]|<script|https?://|@import""", text
    )


def test_the_same_ledger_gives_the_same_bytes(past) -> None:
    first = write_report(past.folder).read_bytes()
    past.ledger.close()
    again = write_report(past.folder).read_bytes()
    assert again == first
    past.ledger = open_ledger(past.folder)  # the fixture closes it


def test_no_password_of_a_broker_is_mailed(past) -> None:
    settings = past.folder / "run.toml"
    with settings.open("a") as file:
        file.write('broker = "mqtt://me:swordfish@broker.example"\n')
    text = write_report(past.folder).read_text(encoding="utf-8")
    assert "mqtt://broker.example:1883" in text
    assert "swordfish" not in text


def test_the_command_writes_it_where_it_is_told(past, tmp_path) -> None:
    out = tmp_path / "elsewhere" / "mail.html"
    done = CliRunner().invoke(app, ["report", str(past.folder), "--output", str(out)])
    assert done.exit_code == 0
    assert done.output == f"wrote {out}\n"
    assert out.read_text(encoding="utf-8").startswith("<!doctype html>")


def test_a_folder_without_a_run_is_said(tmp_path) -> None:
    with pytest.raises(StateError, match="holds no run yet"):
        write_report(tmp_path)
    leave_report(tmp_path)  # at the end of a run that never began: nothing
    assert list(tmp_path.iterdir()) == []


def test_a_report_that_cannot_be_written_does_not_fail_a_run(past, caplog) -> None:
    (past.folder / "report.html").mkdir()
    leave_report(past.folder)
    assert "no report was written" in caplog.text


finite = st.floats(0, 1e9, allow_nan=False)


@given(points=st.lists(st.tuples(finite, finite), min_size=1, max_size=80))
def test_every_point_of_a_chart_lies_inside_it(points) -> None:
    chart = curves("c", {"a": points}, x=("x", str), y=("y", str))
    assert chart is not None
    numbers = re.findall(r"([-\d.e+]+) ([-\d.e+]+)", chart.lines[0].path)
    assert len(numbers) == len(points)
    for x, y in numbers:
        assert chart.left <= float(x) <= chart.right
        assert 0 <= float(y) <= chart.bottom
    assert len(chart.x.marks) + len(chart.y.marks) <= 2 * 12


@given(low=st.floats(-1e6, 1e6), width=st.floats(1e-6, 1e6))
def test_ticks_lie_between_the_ends_and_are_few(low, width) -> None:
    high = low + width
    found = ticks(low, high, 5)
    slack = 1e-5 * max(1.0, width)
    assert len(found) <= 7
    assert all(low - slack <= tick <= high + slack for tick in found)


def test_shares_fill_a_row_from_left_to_right() -> None:
    frame = Rows(2)
    assert frame.x(0) == frame.left
    assert frame.x(0.5) - frame.x(0) == pytest.approx(frame.x(1) - frame.x(0.5))
