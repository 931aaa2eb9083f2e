"""What the coordinator's commands show of a run, on terminals and in pipes."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from past import Past
from patience import patience
from rich.cells import cell_len
from rich.console import Console
from screens import on_screen

from coordinator.views.device_view import DeviceView
from coordinator.views.round_view import RoundView
from coordinator.views.terminal.device_table import fleet_table
from edge_sdk.terminal import Exit

LONG = "raspberry_pi_compute_module_4_io_8gb"


@pytest.fixture
def past(tmp_path: Path) -> Iterator[Past]:
    """A run of five devices in its third round, one of each kind."""
    found = Past(tmp_path / "run", devices=5)
    found.hello()
    for no in (1, 2):
        found.begin(no)
        found.accept_all(no)
        found.end(no, accuracy=0.5 + no / 10)
    found.begin(3)
    found.accept(found.names[0], 3)
    found.ledger.refuse(found.names[1], 2, "rejected", "its norm is not finite")
    seen = {"sent": 123_456, "received": 99_999_999, "rss_mib": 311, "engine": "sparse"}
    found.ledger.count_traffic(
        found.names[2],
        **seen,
        online=True,
        phase="training",
        celsius=61.2,
        progress=455,
    )
    found.ledger.note(found.names[3], "outside 22:00-06:00\x1b[2J [caps]")
    found.ledger.count_traffic(found.names[4], **seen, online=False, phase="idle")
    found.ledger.settle()
    yield found
    found.ledger.close()


def run(*arguments: object, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "coordinator.cli", *map(str, arguments)],
        env={k: v for k, v in os.environ.items() if k != "COLUMNS"} | more,
        capture_output=True,
        text=True,
        check=False,
        timeout=patience(60),
    )


def test_at_80_columns_a_device_is_one_line_that_has_it_all(past: Past) -> None:
    with on_screen("coordinator", "status", past.folder, columns=80) as screen:
        assert screen.end() == Exit.DONE
    assert max(map(cell_len, screen.lines)) <= 80
    head = next(line for line in screen.lines if line.startswith("device"))
    assert head.split() == (
        ["device", "board", "dens.", "now", "seen", "up", "down", "MiB", "°C", "acc."]
    )
    (training,) = [line for line in screen.lines if line.startswith("pi-0002 ")]
    assert re.match(
        r"pi-0002 pi 4 +0\.05 training 46 % +\d+[sm] +121K +95M +311 +61 75\.0",
        training,
    )
    assert re.search(r"^pi-0004 .* offline ", screen.text, re.MULTILINE)
    assert re.search(r"^pi-0000 .* done ", screen.text, re.MULTILINE)
    assert "0.05  pi-0000, pi-0002, pi-0004: 0.05, because" in screen.text
    assert "pi-0001: rejected 1 times, last in round 2: its norm is not" in screen.text
    assert re.search(
        r"updates 1/5  rounds 2/3 done  deadline in [1-4]\d\d s", screen.text
    )


def test_a_wide_terminal_says_why_beside_each_device(past: Past) -> None:
    with on_screen("coordinator", "devices", past.folder, columns=150) as screen:
        assert screen.end() == Exit.DONE
    assert max(map(cell_len, screen.lines)) <= 150
    (line,) = [line for line in screen.lines if line.startswith("pi-0002 ")]
    assert "because <b>more</b> is slow" in line


@pytest.mark.parametrize("verb", ["status", "devices"])
@pytest.mark.parametrize("columns", [None, 60, 200])
def test_a_pipe_gets_80_columns_or_what_columns_says_and_no_colours(
    past: Past, verb: str, columns: int | None
) -> None:
    more = {} if columns is None else {"COLUMNS": str(columns)}
    out = run(verb, past.folder, **more).stdout
    assert "\x1b" not in out
    assert max(map(cell_len, out.splitlines())) <= (columns or 80)
    assert sum(line.startswith("pi-0") for line in out.splitlines()) >= 5
    assert r"paused: outside 22:00-06:00\x1b[2J [caps]" in " ".join(out.split())
    assert "because <b>more</b> is slow" in " ".join(out.split())


def test_one_devices_profile_is_a_value_a_line_and_its_rounds_a_table(
    past: Past,
) -> None:
    facts = json.loads(run("devices", past.folder, "pi-0001", "--json").stdout)
    out = run("devices", past.folder, "pi-0001").stdout
    lines = out.splitlines()
    assert max(map(cell_len, lines)) <= 80
    assert lines[0].startswith("pi-0001: ")
    assert "its norm is not finite" in " ".join(out.split())
    start = lines.index("profile") + 1
    head = next(i for i, line in enumerate(lines) if line.split()[:1] == ["round"])
    values = [line.strip().split(maxsplit=1) for line in lines[start:head]]
    assert values == [[str(key), str(value)] for key, value in facts["profile"]]
    assert len(lines) - head - 1 >= len(facts["tasks"])


def test_what_a_device_says_cannot_move_the_cursor(past: Past) -> None:
    for command in (["devices"], ["devices", "pi-0003"], ["status"]):
        line = [command[0], past.folder, *command[1:]]
        with on_screen("coordinator", *line, columns=200) as it:
            assert it.end() == Exit.DONE
        assert "\x1b[2J" not in it.raw
        assert "22:00" in it.raw


def test_live_follows_the_run_and_ends_with_it(past: Past) -> None:
    with on_screen("coordinator", "status", past.folder, "--live") as screen:
        screen.wait(lambda text: "updates 1/5" in text)
        past.accept(past.names[1], 3)
        screen.wait(lambda text: "updates 2/5" in text)
        past.end(3, accuracy=0.79)
        assert screen.end() == Exit.DONE
    assert "rounds 3/3 done" in screen.text
    assert "84.0" in screen.text
    assert max(map(cell_len, screen.lines)) <= 80


def test_live_with_a_thousand_devices_stays_on_the_screen(tmp_path: Path) -> None:
    past = Past(tmp_path / "run", devices=1000)
    past.hello()
    past.begin(1)
    past.ledger.count_traffic(
        past.names[700],
        sent=1,
        received=1,
        rss_mib=1,
        engine="sparse",
        online=True,
        phase="training",
    )
    past.ledger.settle()
    with on_screen("coordinator", "status", past.folder, "--live", rows=24) as screen:
        screen.wait(lambda text: "more" in text)
        screen.process.send_signal(signal.SIGINT)
        assert screen.end() == Exit.DONE
    past.ledger.close()
    first = screen.text.split("more")[0].splitlines()
    assert len(first) <= 24
    assert any(line.startswith("pi-0700") for line in first)  # who works comes first


def test_where_there_is_no_terminal_live_logs_lines(past: Past) -> None:
    past.end(3, accuracy=0.79)
    done = run("status", past.folder, "--live")
    assert done.returncode == Exit.DONE
    assert re.search(
        r"INFO +coordinator.views.terminal.display: done: 0/0 updates", done.stderr
    )
    assert re.search(r"after round 3: +d=0.05: 84.00 %", done.stderr)
    assert done.stdout == ""


def test_quiet_leaves_only_facts(past: Past) -> None:
    past.end(3, accuracy=0.79)
    done = run("status", past.folder, "--live", "--quiet")
    assert (done.returncode, done.stdout, done.stderr) == (Exit.DONE, "", "")


def test_json_is_one_document_with_the_same_facts(past: Past) -> None:
    found = json.loads(run("status", past.folder, "--json").stdout)
    assert found["rounds_done"] == 2
    assert 0 < found["open"]["left_s"] < 500
    two = next(d for d in found["devices"] if d["name"] == "pi-0002")
    assert (two["celsius"], two["progress"], two["phase"]) == (61.2, 0.455, "training")
    assert json.loads(run("devices", past.folder, "--json").stdout) == found["devices"]
    assert json.loads(run("rounds", past.folder, "--json").stdout) == found["rounds"]
    one = json.loads(run("rounds", past.folder, "3", "--json").stdout)
    assert [t["device"] for t in one["tasks"]] == past.names
    own = json.loads(run("devices", past.folder, "pi-0001", "--json").stdout)
    assert own["refusals"][0]["why"] == "its norm is not finite"


@given(st.none() | st.floats(-1e6, 1e6))
def test_the_time_left_is_that_to_the_deadline_and_never_less_than_none(
    seconds: float | None,
) -> None:
    now = datetime(2026, 1, 1, tzinfo=timezone.utc)
    at = None if seconds is None else (now + timedelta(seconds=seconds)).isoformat()
    found = RoundView(1, deadline=at).left_s(now)
    assert found == (
        None if seconds is None else pytest.approx(max(seconds, 0), abs=1e-3)
    )


def test_rounds_show_accuracy_bytes_and_one_rounds_devices(past: Past) -> None:
    with on_screen("coordinator", "rounds", past.folder) as screen:
        assert screen.end() == Exit.DONE
    assert re.search(r"^2 +done +5/5 .*75\.00 % +90\.00 %", screen.text, re.MULTILINE)
    with on_screen("coordinator", "rounds", past.folder, "2") as screen:
        assert screen.end() == Exit.DONE
    assert "round 2: done, updates 5/5, quorum 1" in screen.text
    assert re.search(r"^pi-0004 +0\.05 accepted", screen.text, re.MULTILINE)
    assert max(map(cell_len, screen.lines)) <= 80


def test_before_the_first_round_and_without_devices(tmp_path: Path) -> None:
    empty = Past(tmp_path / "run", devices=0)
    assert "no device has sent a HELLO yet" in run("status", empty.folder).stdout
    assert "no device has sent a HELLO yet" in run("devices", empty.folder).stdout
    assert "no round has begun yet" in run("rounds", empty.folder).stdout
    assert json.loads(run("devices", empty.folder, "--json").stdout) == []
    empty.ledger.close()


@pytest.mark.parametrize("command", ["status", "devices", "rounds"])
def test_a_ledger_of_another_version_is_said_with_a_remedy(
    tmp_path: Path, command: str
) -> None:
    old = Past(tmp_path / "run", devices=0)
    old.ledger.put("schema", 3)
    old.ledger.close()
    done = run(command, old.folder)
    assert done.returncode == Exit.STATE
    assert re.search(r"has schema 3, this version \d", done.stderr)
    assert "Use the version of flash-edge that wrote it" in done.stderr


def test_a_device_or_round_that_is_not_there_is_said(past: Past) -> None:
    done = run("devices", past.folder, "pi-9")
    assert done.returncode == Exit.STATE
    assert "has seen no device pi-9" in done.stderr
    done = run("rounds", past.folder, "17")
    assert done.returncode == Exit.STATE
    assert "round 17 has not begun" in done.stderr


words = st.text(
    st.characters(min_codepoint=32, max_codepoint=0x2FF), min_size=1, max_size=50
)
device_views = st.builds(
    DeviceView,
    name=words,
    board=words,
    density=st.none() | st.floats(0.01, 1.0),
    why=words,
    online=st.booleans(),
    phase=st.sampled_from(["", "idle", "fetching", "training", "uploading"]),
    task=st.sampled_from(["", "accepted", "assigned"]),
    engine=st.sampled_from(["", "sparse", "masked"]),
    sent=st.integers(0, 10**12),
    received=st.integers(0, 10**12),
    rss_mib=st.integers(0, 99_999),
    refused=st.integers(0, 10**6),
    note=st.just("") | words,
    celsius=st.none() | st.floats(1, 110),
    progress=st.none() | st.floats(0, 1),
    seen_s=st.none() | st.floats(0, 10**7),
)


@pytest.mark.parametrize(
    ("scores", "head"),
    [
        ({}, "score"),  # nobody knows yet whether it will be an accuracy
        ({0.1: {"accuracy": 0.5, "loss": 1.0}}, "acc."),
        ({0.1: {"accuracy": 2.8, "loss": 1.0}}, "loss"),
        ({0.1: {"rmse": 2.0, "loss": 1.0}}, "rmse"),
        ({0.1: {"off_by_a_lot": 2.0, "loss": 1.0}}, "score"),
    ],
)
def test_only_an_accuracy_is_called_one(scores: dict, head: str) -> None:
    paper = io.StringIO()
    table = fleet_table([DeviceView("pi-1")], scores, 100)
    Console(file=paper, width=100).print(table)
    assert paper.getvalue().splitlines()[0].split()[-1] == head


@given(st.lists(device_views, min_size=1, max_size=6), st.integers(80, 129))
def test_no_device_breaks_the_table_at_any_width(
    devices: list[DeviceView], width: int
) -> None:
    paper = io.StringIO()
    console = Console(file=paper, width=width, markup=False, emoji=False)
    console.print(fleet_table(devices, {}, width))
    lines = paper.getvalue().splitlines()
    assert len(lines) == 1 + len(devices)
    assert max(map(cell_len, lines)) <= width
    for device, line in zip(devices, lines[1:], strict=True):
        celsius = "-" if device.celsius is None else f"{device.celsius:.0f}"
        assert line.split()[-2] == celsius  # no number was cut
