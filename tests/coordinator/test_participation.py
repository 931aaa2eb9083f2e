"""Whose data has trained, and why somebody's has not: from rows, and from a ledger."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from databases import opened
from past import Past
from typer.testing import CliRunner

from coordinator.cli import app
from coordinator.ledger import DeviceRow
from coordinator.rounds.state import RoundPhase
from coordinator.views.page.metrics import exposition
from coordinator.views.participation import participation
from coordinator.views.report import write_report
from coordinator.views.round_view import RoundView
from coordinator.views.source import RunSource

DONE = [RoundView(no, RoundPhase.DONE) for no in (0, 1)]
PI = DeviceRow("pi-1", examples=90, density=0.1, online=True)


@pytest.mark.parametrize(
    ("device", "standing", "said"),
    [
        ({}, {}, "it was not here when rounds opened"),
        ({"online": False}, {}, "it is offline"),
        ({"note": "quiet until 22:00"}, {}, "it pauses: quiet until 22:00"),
        (
            {"density": None, "why": "needs 215 MiB of 20"},
            {},
            "it cannot take part: needs 215 MiB of 20",
        ),
        ({"pace": "one step takes 9.0 s"}, {}, "one step takes 9.0 s"),
        (
            {"online": False},
            {"joined": 0, "until": 7, "why": "failed 3 times"},
            "it sits out until round 7: failed 3 times",
        ),
    ],
)
def test_who_was_never_asked_is_named_with_its_reason(
    device: dict[str, Any], standing: dict[str, Any], said: str
) -> None:
    found = participation([replace(PI, **device)], {}, {"pi-1": standing}, DONE)
    (one,) = found.warnings
    assert one.warning == "never asked"
    assert one.reason.startswith(said)
    assert found.share == 0.0


def test_who_came_after_the_last_round_had_opened_is_no_warning() -> None:
    assert not participation([PI], {}, {"pi-1": {"joined": 2}}, DONE).warnings


def test_where_a_round_draws_few_of_many_it_takes_a_while_to_be_a_warning() -> None:
    fleet = [replace(PI, name=f"pi-{i}") for i in range(10)]
    for rounds, expected in ((14, 0), (15, 10)):
        opened = [RoundView(no + 1, RoundPhase.DONE) for no in range(rounds)]
        found = participation(fleet, {}, {}, opened, cohort=2)
        assert len(found.warnings) == expected
        assert all("drawn" in one.reason for one in found.warnings)


def test_who_counts_seldom_is_named_with_what_helps() -> None:
    fleet = [replace(PI, name=f"pi-{i}") for i in range(4)]
    rounds = [RoundView(no + 1, RoundPhase.DONE) for no in range(30)]
    parts: dict[str, dict[str, Any]] = {
        d.name: {"asked": 20, "trained": 20, "last": 30, "why": ""} for d in fleet
    }
    parts["pi-3"]["trained"] = 3
    seen = [{"device": f"pi-{i}", "examples": 100} for i in (0, 0, 1, 2, 3)]
    found = participation(fleet, parts, {}, rounds, cohort=2, seen=seen)
    (one,) = found.warnings
    assert (one.name, one.warning) == ("pi-3", "seldom counted")
    assert one.reason.startswith("3 of about 16 models, a round asks only some")
    assert 'selection = "fair"' in one.reason
    assert [d.seen for d in found.devices] == [200, 100, 100, 100]
    assert [d.part for d in found.devices] == [0.4, 0.2, 0.2, 0.2]
    parts["pi-3"]["why"] = "disk full"
    (one,) = participation(fleet, parts, {}, rounds, cohort=2).warnings
    assert one.reason == "3 of about 16 models, disk full"
    late = {"pi-3": {"joined": 28}}  # it came when three rounds were left
    assert not participation(fleet, parts, late, rounds, cohort=2).warnings
    few = rounds[:9]  # a tenth round says nothing yet
    parts = {n: {**p, "asked": 6, "trained": 6} for n, p in parts.items()}
    parts["pi-3"]["trained"] = 1
    assert not participation(fleet, parts, {}, few, cohort=2).warnings


def test_the_share_counts_examples_of_whoever_is_in_a_model_that_is_done(
    tmp_path: Path,
) -> None:
    past = Past(tmp_path / "run")
    past.hello()
    for name, examples in zip(past.names, (10, 20, 30, 40), strict=True):
        past.ledger.see_device(name, profile={}, examples=examples, version="1")
    past.begin(1)
    past.accept(past.names[0], 1)
    past.accept(past.names[1], 1)
    past.end(1, accuracy=0.5)
    past.begin(2)
    past.accept(past.names[2], 2)  # its round is not done
    past.ledger.move_task(f"2-{past.names[3]}", past.ledger.tasks(2)[3].phase, "full")
    past.ledger.settle()
    found = RunSource(past.folder).run().as_json()["participation"]
    past.ledger.close()
    assert (found["rounds"], found["examples"], found["examples_trained"]) == (
        *(1, 100, 30),
    )
    assert found["share"] == 0.3
    rows = {d["name"]: (d["asked"], d["trained"], d["last"]) for d in found["devices"]}
    assert list(rows.values()) == [(2, 1, 1), (2, 1, 1), (2, 0, None), (2, 0, None)]
    warned = {d["name"]: d["reason"] for d in found["devices"] if d["warning"]}
    assert warned == {past.names[2]: "it was late", past.names[3]: "full"}


def test_it_is_in_status_report_metrics_and_json(tmp_path: Path) -> None:
    past = Past(tmp_path / "run")
    past.names.append("pi-idle")
    past.hello()
    past.names.remove("pi-idle")
    past.begin(1)
    past.accept_all(1)
    past.end(1, accuracy=0.5)
    past.ledger.stand("pi-idle", 3, 9, "failed 3 times: disk full")
    past.ledger.settle()
    past.ledger.close()
    run = str(past.folder)
    why = "sits out until round 9: failed 3 times: disk full"
    said = " ".join(CliRunner().invoke(app, ["status", run]).output.split())
    assert "participation: 80 % of all examples were trained on" in said
    assert "of 1 rounds done, devices: 4 in 1, 1 in 0" in said
    assert f"pi-idle: never asked: it {why}" in said
    told = json.loads(CliRunner().invoke(app, ["status", run, "--json"]).output)
    assert told["participation"]["share"] == 0.8
    figures = exposition(RunSource(past.folder).run()).decode()
    assert "flash_edge_examples_trained_ratio 0.8" in figures
    assert 'flash_edge_device_rounds_trained_total{device="pi-0001"} 1.0' in figures
    seen = 'flash_edge_device_examples_trained_total{device="pi-0001"}'
    assert seen in figures
    assert (
        'flash_edge_device_warning{device="pi-idle",warning="never asked"} 1.0'
        in figures
    )
    report = write_report(past.folder).read_text()
    assert "80.00 % of all examples were trained on at least once" in report
    assert f"never asked: it {why}" in report


def test_a_ledger_of_0_1_0_is_read_without_the_table(tmp_path: Path) -> None:
    past = Past(tmp_path / "run")
    past.hello()
    past.begin(1)
    past.ledger.close()
    with opened(past.folder / "ledger.sqlite") as db:
        db.execute("DROP TABLE standing")
    found = RunSource(past.folder).run().as_json()["participation"]
    assert [d["asked"] for d in found["devices"]] == [1] * 4
