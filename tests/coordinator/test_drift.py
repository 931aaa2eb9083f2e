"""Drift of the devices' data: named beyond its band, refused where it cannot be."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from coordinator.algorithms.load import load_algorithm
from coordinator.ledger import Ledger, open_ledger
from coordinator.rounds.data_statistics.drift import drift_of
from coordinator.server.devices.drift_reports import REDRAWN, DriftReports, draws_again
from coordinator.settings import DriftSettings, RunSettings, load_run
from edge_sdk.errors import SettingsError
from edge_sdk.evaluation.data_sums import sums_of
from edge_sdk.tasks.task import load_task
from edge_sdk.training.holdout.describe import summary_of
from edge_sdk.wire.evaluation import DataSummary

SETTINGS = RunSettings(
    federation="tests",
    task="digits",
    evaluation=None,
    densities=[0.2],
    rounds=3,
    holdout=0.2,
    drift=DriftSettings(report=True),
)


def told(labels: list[int], mean: float = 0.0) -> DataSummary:
    inputs = np.random.default_rng(len(labels)).normal(mean, 1, (len(labels), 1, 8, 8))
    return summary_of(sums_of(inputs, np.array(labels), classes=10))


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with closing(open_ledger(tmp_path / "run")) as found:
        for name in ("pi-1", "pi-2"):
            found.see_device(name, profile="{}", examples=40, version="1", said=name)
        yield found


def device(ledger: Ledger, name: str = "pi-1") -> dict[str, object]:
    rows = {row.name: msgspec.to_builtins(row) for row in ledger.devices()}
    return dict(rows[name])


def test_labels_and_drift_are_kept_of_each_device_and_do_not_grow(
    ledger: Ledger, caplog: pytest.LogCaptureFixture
) -> None:
    reports = DriftReports(SETTINGS, load_task("digits"), ledger)
    reports.take("pi-1", 1, told([0, 1] * 20))
    reports.take("pi-2", 1, told([2] * 40))
    first = device(ledger)
    assert (first["labels"], first["drift"]) == ("0: 20, 1: 20", "")
    reports.take("pi-1", 2, told([0] * 10 + [2] * 30))
    assert device(ledger)["drift"] == "class shares moved by 75 %"  # 2 is pi-2's
    reports.take("pi-1", 3, told([0] * 20 + [7] * 20, mean=2.0))
    now = device(ledger)
    assert "a mean moved by " in str(now["drift"])
    assert "new class 7" in str(now["drift"])
    assert now["labels"] == "0: 20, 7: 20"
    assert "the data of pi-1: " in caplog.text
    for no in range(4, 40):
        reports.take("pi-1", no, told([0, 1] * 20))
    again = device(ledger)
    assert again["data_first"] == first["data_first"]
    assert (again["drift"], again["labels"]) == ("", "0: 20, 1: 20")


def test_a_report_that_cannot_be_is_refused_by_name(
    ledger: Ledger, caplog: pytest.LogCaptureFixture
) -> None:
    reports = DriftReports(SETTINGS, load_task("digits"), ledger)
    good = told([0] * 40)
    for bad in (
        msgspec.structs.replace(good, mean=[math.nan]),
        msgspec.structs.replace(good, classes=[41]),
        msgspec.structs.replace(good, examples=1 << 62),
    ):
        reports.take("pi-2", 1, bad)
    assert caplog.text.count("the report of pi-2") == 3
    assert device(ledger, "pi-2")["labels"] == ""
    reports.take("pi-2", 1, good)
    assert device(ledger, "pi-2")["labels"] == "0: 40"


def test_nothing_is_asked_unless_the_run_wants_reports(ledger: Ledger) -> None:
    plain = msgspec.structs.replace(SETTINGS, drift=DriftSettings())
    reports = DriftReports(plain, load_task("digits"), ledger)
    assert reports.query is None
    reports.take("pi-1", 1, told([0]))
    assert device(ledger)["labels"] == ""


def test_a_number_that_never_changed_has_no_deviation_to_drift_by() -> None:
    first, now = sums_of(np.zeros(4)), sums_of(np.ones(4))
    assert drift_of(first, now, band=0.1).shift == 0.0


def test_masks_are_drawn_again_once_for_each_drift_and_again_if_the_round_was_lost(
    ledger: Ledger,
) -> None:
    by_shift = load_algorithm("prunefl(shift=0.3)")
    plan: dict[str, Any] = {"goal": 2, "quorum": 1, "rate": 0.1, "base": ""}
    reports = DriftReports(SETTINGS, load_task("digits"), ledger)
    assert not draws_again(by_shift, ledger, 1)  # nobody has said anything
    for name in ("pi-1", "pi-2"):
        reports.take(name, 1, told([0, 1] * 20))
    assert not draws_again(by_shift, ledger, 2)
    reports.take("pi-1", 2, told([0] * 10 + [7] * 30))  # a class appears late, on one
    assert draws_again(by_shift, ledger, 3)
    assert draws_again(by_shift, ledger, 3)  # killed before its orders were durable
    ledger.plan_round(3, **plan)
    ledger.abort(3, "nobody answered")
    assert draws_again(by_shift, ledger, 4)  # round 3 was given up
    ledger.plan_round(4, **plan)
    ledger.finish(4, model="round-00004", note="")
    assert not draws_again(by_shift, ledger, 5)  # the same drift
    assert ledger.get(REDRAWN)["round"] == 4
    reports.take("pi-2", 5, told([0] * 10 + [7] * 30))  # and more of it
    assert draws_again(by_shift, ledger, 6)
    assert not draws_again(load_algorithm("prunefl"), ledger, 7)


def test_an_algorithm_that_goes_by_drift_is_refused_where_nobody_reports_it(
    tmp_path: Path,
) -> None:
    path = tmp_path / "run.toml"
    path.write_text(
        'federation = "tests"\ntask = "digits"\nevaluation = "devices"\n'
        'densities = [0.2]\nrounds = 3\nalgorithm = "prunefl(shift=0.3)"\n'
    )
    with pytest.raises(SettingsError, match=r"key drift\.report") as why:
        load_run(path)
    assert "report = true" in why.value.help
    path.write_text(path.read_text() + "[drift]\nreport = true\n")
    assert load_run(path).drift.report
