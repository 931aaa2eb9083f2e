"""Drift of the devices' data: named beyond its band, refused where it cannot be."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import msgspec
import numpy as np
import pytest

from coordinator.ledger import Ledger, open_ledger
from coordinator.rounds.data_statistics.drift import drift_of
from coordinator.server.devices.drift_reports import DriftReports
from coordinator.settings import DriftSettings, RunSettings
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
