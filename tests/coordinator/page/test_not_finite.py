"""Numbers that are not finite, in every field that can hold one, as people see them."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator

import msgspec
import pytest
from databases import opened
from typer.testing import CliRunner

from coordinator.cli import app
from coordinator.simulation.record import RoundLog, RoundRecord
from coordinator.simulation.run import load_simulation
from coordinator.simulation.settings import SimulationSettings
from coordinator.views.source import RunSource
from coordinator.views.track import track
from edge_sdk.json_text import to_json

FACTS = ("api/run", "api/devices/pi-0001", "api/rounds/2", "api/warm-up", "api/exports")
BAD = (math.nan, math.inf, -math.inf)


def _strict(text: str) -> object:
    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    return json.loads(text, parse_constant=refuse)


def _spoil(past, bad: float) -> None:
    """A bad number wherever one comes in: from devices, training and evaluation."""
    past.begin(4)
    name = past.names[1]
    past.ledger.see_device(
        name, profile={"board": "pi 4", "ram_mib": bad}, examples=9, version="1"
    )
    past.ledger.count_traffic(
        name,
        sent=1,
        received=1,
        rss_mib=300,
        engine="",
        phase="idle",
        online=True,
        celsius=bad,
    )
    past.ledger.accept(
        past._task(name, 4),
        b"update",
        examples=9,
        norm=1.0,
        metrics={"loss": bad, "seconds": bad, "steps": bad, "peak_mib": bad},
    )
    past.ledger.record_score(2, 0.2, {"accuracy": bad, "loss": bad})
    past.ledger.record_score(1, 0.2, {"loss": bad})
    past.ledger.put("evidence", {"conv1.weight": bad, "fc.weight": 1.0})
    past.ledger.settle()


def _asked(source: RunSource) -> Iterator[object]:
    for view in (source.run(), source.device("pi-0001"), source.round(2)):
        yield view.as_json()
    yield from (source.warm_up().as_json(), source.shown_settings())


@pytest.mark.parametrize("bad", BAD)
def test_the_page_answers_with_null_for_what_is_not_finite(past, serve, bad) -> None:
    _spoil(past, bad)
    page = serve(past.folder)
    found = {}
    for address in FACTS:
        status, body, _ = page.get(address)
        assert status == 200, address
        found[address] = _strict(body)
    run, device = found["api/run"], found["api/devices/pi-0001"]
    assert run["rounds"][1]["scores"]["0.2"] == {"accuracy": None, "loss": None}
    assert device["tasks"][0]["loss"] is None
    assert device["device"]["celsius"] is None
    assert page.get("metrics")[0] in (200, 501)


def test_every_real_column_of_the_ledger_may_hold_an_infinity(past) -> None:
    with opened(past.folder / "ledger.sqlite") as db:
        columns = [
            (table, row[1])
            for (table,) in db.execute(
                "SELECT name FROM sqlite_master WHERE type = 'table'"
            ).fetchall()
            for row in db.execute(f"PRAGMA table_info({table})")
            if row[2] == "REAL" and table != "scores"  # whose density is a key
        ]
        assert len(columns) >= 6
    for table, column in columns:
        for bad in (math.inf, -math.inf):
            with opened(past.folder / "ledger.sqlite") as db:
                kept = db.execute(
                    f"SELECT rowid, {column} FROM {table}"  # noqa: S608 - its own names
                ).fetchall()
                db.execute(f"UPDATE {table} SET {column} = ?", (bad,))  # noqa: S608
            for facts in _asked(RunSource(past.folder)):
                _strict(to_json(facts))
            with opened(past.folder / "ledger.sqlite") as db:
                db.executemany(
                    f"UPDATE {table} SET {column} = ? WHERE rowid = ?",  # noqa: S608
                    [(value, rowid) for rowid, value in kept],
                )


@pytest.mark.parametrize("bad", BAD)
def test_commands_print_null_and_go_on_for_people(past, bad) -> None:
    _spoil(past, bad)
    run = CliRunner().invoke
    folder = str(past.folder)
    for line in (
        ("status", folder),
        ("devices", folder),
        ("devices", folder, "pi-0001"),
        ("rounds", folder),
        ("rounds", folder, "2"),
    ):
        facts = run(app, [*line, "--json"])
        assert facts.exit_code == 0, (line, facts.output)
        _strict(facts.stdout)
        words = run(app, [*line])
        assert words.exit_code == 0, (line, words.output)


def test_a_ledger_that_holds_a_bare_nan_is_still_read(past) -> None:
    # As versions before this one wrote them.
    with opened(past.folder / "ledger.sqlite") as db:
        db.execute('UPDATE updates SET metrics = \'{"loss": NaN, "peak_mib": NaN}\'')
        db.execute('UPDATE devices SET profile = \'{"board": "x", "ram": NaN}\'')
        db.execute('UPDATE scores SET metrics = \'{"accuracy": NaN, "loss": NaN}\'')
    for facts in _asked(RunSource(past.folder)):
        _strict(to_json(facts))
    assert past.ledger.peaks() == {}
    assert [d.name for d in past.ledger.devices()] == past.names


def test_a_simulation_goes_on_after_a_round_whose_score_was_not_finite(tmp_path):
    journal = RoundLog(tmp_path)
    score = {"0.1": {"accuracy": 0.5, "loss": math.nan}}
    figures = dict.fromkeys(("bytes_up", "bytes_down", "total_up", "total_down"), 1)
    journal.add(
        RoundRecord(
            **{"round": 1, "accepted": ["a"], "asked": 1, "rate": 0.1, **figures},
            clock_s=1.0,
            wall_s=1.0,
            loss=math.inf,
            scores=score,
        )
    )
    (line,) = (tmp_path / "metrics.jsonl").read_text().splitlines()
    _strict(line)
    (again,) = RoundLog(tmp_path).records
    assert math.isnan(again.scores["0.1"]["loss"])
    assert again.scores["0.1"]["accuracy"] == 0.5


@pytest.mark.parametrize("place", ["tensorboard", "mlflow"])
def test_tracking_goes_on_past_a_score_that_is_not_finite(
    past, tmp_path, monkeypatch, place
) -> None:
    pytest.importorskip(place)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    past.ledger.record_score(1, 0.2, {"accuracy": math.nan, "loss": math.inf})
    assert (
        track(
            past.folder,
            place,
            (tmp_path / "to")
            .as_uri()
            .removeprefix("file://" if place == "tensorboard" else ""),
        )
        == 2
    )


def test_a_simulation_with_an_infinite_setting_is_gone_on_with(tmp_path) -> None:
    settings = msgspec.convert(
        {
            "task": "digits",
            "densities": [0.1],
            "alpha": math.inf,
            "round_budget_s": math.inf,
            "fleet": [{"share": 1.0, "board": "raspberry_pi_5_8gb"}],
        },
        SimulationSettings,
    )
    text = msgspec.json.encode(settings)
    _strict(text.decode())
    (tmp_path / "settings.json").write_bytes(text)
    assert load_simulation(tmp_path) == settings
