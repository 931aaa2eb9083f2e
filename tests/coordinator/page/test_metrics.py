"""What Prometheus, TensorBoard and MLflow read back of a run, by their own readers."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from patience import patience, waited
from ports import free_port
from typer.testing import CliRunner

from coordinator.cli import app
from coordinator.rounds.state import RoundPhase
from coordinator.views.round_view import RoundView
from coordinator.views.source import RunSource
from coordinator.views.track import points, track
from edge_sdk.errors import SettingsError, StateError
from edge_sdk.terminal import Exit


def _metrics(page) -> dict[tuple[str, ...], float]:
    """Every sample: name and label values."""
    parser = pytest.importorskip("prometheus_client.parser")
    status, text, headers = page.get(
        "metrics", cookie=None, authorization=f"Bearer {page.token}"
    )
    assert status == 200
    assert headers["content-type"].startswith("text/plain; version=")
    families = list(parser.text_string_to_metric_families(text))
    for family in families:
        assert family.name.startswith("flash_edge_")
        assert family.documentation
    return {
        (sample.name.removeprefix("flash_edge_"), *sample.labels.values()): sample.value
        for family in families
        for sample in family.samples
    }


def test_prometheus_reads_the_run_with_the_pages_token(past, serve) -> None:
    found = _metrics(serve(past.folder))
    for name, expected in {
        ("run_begun",): 1,
        ("run_info", "flash-edge", "greenhouse", "digits"): 1,
        ("run_rounds",): 3,
        ("devices", "online"): 4,
        ("rounds_total", "done"): 2,
        ("algorithm_failures_total",): 0,
        ("updates_accepted_total",): 9,
        ("payload_bytes_total", "down"): 3 * 4 * 500,
        ("round_open",): 1,
        ("round_number",): 3,
        ("round_updates",): 1,
        ("round_updates_goal",): 4,
        ("scored_round",): 2,
        ("accuracy_ratio", "0.2"): 0.9,
        ("loss", "0.05"): 1.0,
        ("device_density_ratio", "pi-0001"): 0.2,
        ("device_sent_bytes_total", "pi-0000"): 1000,
        ("device_peak_memory_bytes", "pi-0000"): 300 * 2**20,
        ("device_refused_updates_total", "pi-0001"): 1,
    }.items():
        assert found[name] == pytest.approx(expected), name
    assert found["device_last_seen_timestamp_seconds", "pi-0000"] > 1.7e9


def test_without_the_token_there_are_no_metrics(past, serve) -> None:
    page = serve(past.folder)
    for given in ({}, {"authorization": "Bearer wrong"}, {"authorization": "Basic x"}):
        status, text, _ = page.get("metrics", cookie=None, **given)
        assert status == 401
        assert "greenhouse" not in text


def test_before_the_run_the_only_metric_says_so(tmp_path, serve, make_past) -> None:
    page = serve(tmp_path / "run")
    assert _metrics(page) == {("run_begun",): 0}
    make_past(page.folder, 0)
    assert _metrics(page)[("run_begun",)] == 1


def _scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    read = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator"
    ).EventAccumulator(str(folder))
    read.Reload()
    return {
        tag: [(event.step, event.value) for event in read.Scalars(tag)]
        for tag in read.Tags()["scalars"]
    }


def test_tensorboard_reads_each_round_once_however_often_it_is_written(past) -> None:
    for _ in range(2):
        assert track(past.folder, "tensorboard") == 2
    found = _scalars(past.folder / "tensorboard")
    assert found["accuracy/density_0.2"] == [
        (1, pytest.approx(0.8)),
        (2, pytest.approx(0.9)),
    ]
    assert found["bytes/down_total"] == [(1, 2000.0), (2, 4000.0)]
    assert found["round/updates"] == [(1, 4.0), (2, 4.0)]


def test_following_goes_on_until_the_run_is_done(past) -> None:
    count: list[int] = []
    following = threading.Thread(
        target=lambda: count.append(track(past.folder, "tensorboard", follow=True))
    )
    following.start()
    past.end(3, accuracy=0.75)
    following.join(patience(60))
    assert count == [3]
    found = _scalars(past.folder / "tensorboard")["accuracy/density_0.05"]
    assert found[-1] == (3, pytest.approx(0.8))


def test_following_waits_for_the_scores_of_the_last_model(past, monkeypatch) -> None:
    """A run is done before its last model is scored, one density after the other."""
    monkeypatch.setattr("coordinator.views.track.follow.LOOK_S", 0.05)
    past.ledger.freeze(3)
    past.ledger.finish(3, model="round-3")
    count: list[int] = []
    following = threading.Thread(
        target=lambda: count.append(track(past.folder, "tensorboard", follow=True))
    )
    following.start()
    for density in (0.05, 0.2):
        time.sleep(0.3)
        assert following.is_alive()
        past.ledger.record_score(3, density, {"accuracy": 0.75 + density})
    following.join(patience(60))
    assert count == [3]
    for density in (0.05, 0.2):
        found = _scalars(past.folder / "tensorboard")[f"accuracy/density_{density}"]
        assert found[-1] == (3, pytest.approx(0.75 + density))


def test_mlflow_reads_one_run_that_a_second_call_goes_on_with(
    past, tmp_path, monkeypatch
) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # else it wants a server
    uri = (tmp_path / "mlruns").as_uri()
    assert track(past.folder, "mlflow", uri) == 2
    past.end(3, accuracy=0.75)
    assert track(past.folder, "mlflow", uri) == 1
    _holds_three_rounds(mlflow, uri)


@pytest.fixture
def tracking_server(tmp_path: Path) -> Iterator[str]:
    """MLflow's own, over HTTP; its address."""
    for module in ("mlflow", "flask", "flask_cors", "sqlalchemy", "alembic"):
        pytest.importorskip(module)
    port = free_port()
    store = {"_MLFLOW_SERVER_FILE_STORE": (tmp_path / "server").as_uri()}
    allow = {"MLFLOW_ALLOW_FILE_STORE": "true"}
    line = [sys.executable, "-m", "flask", "--app", "mlflow.server:app", "run"]
    with (tmp_path / "server.log").open("wb") as log:
        server = subprocess.Popen(
            [*line, "--port", str(port)],
            env=os.environ | store | allow,
            stdout=log,
            stderr=log,
        )
    try:

        def serves() -> bool:
            assert server.poll() is None, (tmp_path / "server.log").read_text()
            return _answers(f"http://127.0.0.1:{port}/health")

        said = tmp_path / "server.log"
        assert waited(serves, 200, look_s=0.2), said.read_text()
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(patience(30))


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=patience(5)) as answer:  # noqa: S310 - http, above
            return answer.status == 200
    except OSError:
        return False


def test_mlflows_tracking_server_gets_the_same_over_http(past, tracking_server) -> None:
    assert track(past.folder, "mlflow", tracking_server) == 2
    past.end(3, accuracy=0.75)
    assert track(past.folder, "mlflow", tracking_server) == 1
    _holds_three_rounds(pytest.importorskip("mlflow"), tracking_server)


def _holds_three_rounds(mlflow: Any, uri: str) -> None:
    client = mlflow.MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name("greenhouse")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"
    assert run.data.params["training.rate"] == "0.1"
    history = client.get_metric_history(run.info.run_id, "accuracy/density_0.05")
    assert [(m.step, m.value) for m in history] == [
        (1, pytest.approx(0.65)),
        (2, pytest.approx(0.75)),
        (3, pytest.approx(0.8)),
    ]


def test_a_tracking_server_that_refuses_is_said(past, monkeypatch) -> None:
    pytest.importorskip("mlflow")
    monkeypatch.delenv("MLFLOW_ALLOW_FILE_STORE", raising=False)
    with pytest.raises(SettingsError, match="MLflow refuses"):
        track(past.folder, "mlflow", (past.folder / "mlruns").as_uri())


def test_a_round_waits_for_its_score_unless_a_later_one_has_it(past) -> None:
    at = "2026-01-01T00:00:00+00:00"

    def row(no: int, phase: str, score: float | None) -> RoundView:
        return RoundView(
            no,
            RoundPhase(phase),
            closed=None if phase == "run" else at,
            scores=None
            if score is None
            else {density: {"accuracy": score} for density in ("0.05", "0.2")},
        )

    def rounds(*rows: RoundView, state: str = "between rounds") -> list[int]:
        view = replace(RunSource(past.folder).run(), rounds=rows, state=state)
        return sorted({point.round_no for point in points(view)})

    scored, waits = row(1, "done", 0.5), row(2, "done", None)
    assert rounds() == []
    assert rounds(row(0, "done", None)) == [0]  # a warm-up gives no model
    assert rounds(scored, waits) == [1]
    assert rounds(scored, waits, row(3, "done", 0.6)) == [1, 2, 3]
    assert rounds(scored, waits, state="done") == [1, 2]
    assert rounds(scored, row(2, "aborted", None), row(3, "run", None)) == [1, 2]


def test_the_command_says_what_it_wrote_and_refuses_other_places(past) -> None:
    run = CliRunner().invoke
    done = run(app, ["track", str(past.folder), "--to", "tensorboard"])
    assert (done.exit_code, done.stdout) == (0, "wrote 2 rounds to tensorboard\n")
    refused = run(app, ["track", str(past.folder), "--to", "paper"])
    assert refused.exit_code == Exit.SETTINGS
    assert "paper" in refused.stderr
    with pytest.raises(StateError, match="holds no run"):
        track(past.folder / "nowhere", "tensorboard")
