"""What the overview is for: savings against dense, who is slow, what to do next."""

from __future__ import annotations

import json
import shlex
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from coordinator.cli import app as coordinator_app
from coordinator.ledger import DeviceRow
from coordinator.rounds.state import RoundPhase
from coordinator.views.page.advice import next_step
from coordinator.views.round_view import RoundView, TaskView
from coordinator.views.savings import savings
from coordinator.views.scores import metric_of, score_text
from coordinator.views.slow_devices import slowest
from coordinator.views.source import RunSource
from edge_sdk.cli import app as edge_app
from export.cli import app as export_app

SIZES = {"conv": 100, "fc": 1000}
COUNTS = {"0.1": {"conv": 50, "fc": 60}, "0.5": {"conv": 100, "fc": 450}}
LOAD = {"dense_numel": 10, "dense_macs": 500, "macs": {"conv": 40_000, "fc": 1000}}


def _rounds(*rows: tuple[int, int, int, int, int]) -> list[RoundView]:
    names = ("no", "asked", "accepted", "up_bytes", "down_bytes")
    return [RoundView(**dict(zip(names, row, strict=True))) for row in rows]


def test_savings_are_reckoned_against_every_value_as_float32_both_ways() -> None:
    rounds = _rounds((0, 2, 2, 50, 50), (1, 4, 3, 300, 900), (2, 4, 4, 400, 800))
    found = savings(rounds, [], sizes=SIZES, counts=COUNTS, workload=LOAD)
    assert found is not None
    model = 4 * (1100 + 10)
    assert found.dense_bytes == model * (4 + 3 + 4 + 4)  # no warm-up when dense
    assert found.bytes == 50 + 50 + 300 + 900 + 400 + 800
    assert found.times_fewer_bytes == pytest.approx(66600 / 2500, abs=0.01)
    assert [row.bytes for row in found.by_round] == [100, 1300, 2500]


def test_a_device_that_trains_densely_saves_no_compute() -> None:
    rounds = _rounds((1, 2, 2, 300, 900))
    ask = {"sizes": SIZES, "counts": COUNTS, "workload": LOAD}
    whole, kept = 41_500, 500 + 20_000 + 60
    for trained, wanted in (
        ([(0.1, "masked", 9)], 1.0),
        ([(0.1, "sparse", 9)], whole / kept),
        ([(0.1, "sparse", 9), (0.1, "masked", 9)], 2 * whole / (whole + kept)),
        ([(0.1, "sparse", 18), (0.1, "", 9)], 3 * whole / (whole + 2 * kept)),
    ):
        found = savings(rounds, trained, **ask)
        assert found is not None
        assert found.times_fewer_macs == pytest.approx(wanted, abs=0.006)


def test_an_older_ledger_saves_what_is_known_of_it() -> None:
    rounds = _rounds((1, 1, 1, 10, 10))
    found = savings(
        rounds, [(0.1, "sparse", 9)], sizes=SIZES, counts=COUNTS, workload=None
    )
    assert found is not None
    assert (found.dense_bytes, found.times_fewer_macs) == (2 * 4 * 1100, None)
    assert not found.is_whole


@pytest.mark.parametrize("rounds", [[], [(0, 2, 2, 50, 50)], [(1, 0, 0, 0, 0)]])
def test_without_a_round_there_are_no_savings(rounds) -> None:
    ask = {"sizes": SIZES, "counts": COUNTS, "workload": LOAD}
    assert savings(_rounds(*rounds), [], **ask) is None


def _task(device: str, seconds: float | None, steps: float | None = 10.0, **more):
    return TaskView(1, device, 0.1, seconds=seconds, steps=steps, **more)


def _devices(*names: str, **more: str) -> list[DeviceRow]:
    return [DeviceRow(name, **more) for name in names]


def test_who_is_slow_is_named_with_the_reason_that_its_figures_give() -> None:
    tasks = [_task(n, 10.0) for n in "abcde"]
    tasks += [
        _task("slow-steps", 40.0),
        _task("many-steps", 30.0, steps=30.0),
        _task("gone", None, None, late=True),
    ]
    found = slowest(tasks, _devices(*"abcde", "slow-steps", "many-steps"))
    assert [s.device for s in found] == ["gone", "slow-steps", "many-steps"]
    assert "no update before the deadline" in found[0].why
    assert "each step takes 4.0 times the median's" in found[1].why
    assert "3.0 times the median's steps" in found[2].why
    own = slowest([*tasks[:5], tasks[5]], _devices("slow-steps", pace="it is hot"))
    assert "it is hot" in own[0].why


@given(
    st.lists(
        st.tuples(
            st.none() | st.floats(0, 1e9), st.none() | st.floats(0, 1e9), st.booleans()
        )
    )
)
def test_whatever_devices_report_some_are_slow_and_never_many(rows) -> None:
    tasks = [
        _task(f"d{i}", seconds, steps, late=late)
        for i, (seconds, steps, late) in enumerate(rows)
    ]
    found = slowest(tasks, [])
    assert len(found) <= 5
    assert all(row.why for row in found)


def _parses(line: str) -> bool:
    """Whether a command that the page shows is one: its arguments are taken."""
    words = shlex.split(line)
    known = {
        "flash-coordinator": coordinator_app,
        "flash-edge": edge_app,
        "flash-export": export_app,
    }
    done = CliRunner().invoke(known[words[0]], [*words[1:], "--help"])
    return done.exit_code == 0


@pytest.mark.parametrize(
    ("change", "runs", "says"),
    [
        ({"state": "done"}, False, "The run is done"),
        ({}, False, "No coordinator runs"),
        ({"rounds": [], "devices": []}, False, "No coordinator runs"),
        ({"rounds": [], "devices": []}, True, "No device has sent a HELLO"),
        ({}, True, "Nothing: a round is running"),
        ({"open": None}, True, "the next round"),
        (
            {"rounds": [RoundView(2, RoundPhase.ABORTED, note="1 of 3 came")]},
            True,
            "Round 2 was given up: 1 of 3 came",
        ),
    ],
)
def test_the_next_step_is_said_with_commands_that_exist(
    past, change, runs, says
) -> None:
    view = replace(RunSource(past.folder).run(), **change)
    step = next_step(view, Path("/my runs/a"), "evaluation", runs=runs)
    assert says in step["say"]
    assert step["commands"]
    for entry in step["commands"]:
        assert _parses(entry["command"]), entry


def test_the_model_that_scores_best_is_exported_and_whose_boards_it_serves(
    past,
) -> None:
    view = RunSource(past.folder).run()
    densities = view.run.densities
    top, low = max(densities), min(densities)

    def step(scores: dict[str, dict[str, float]]) -> tuple[str, str]:
        rounds = [replace(row, scores=scores) for row in view.rounds]
        done = replace(view, state="done", rounds=rounds)
        found = next_step(done, past.folder, "", runs=False)
        return found["say"], found["commands"][0]["command"]

    say, command = step({str(d): {"accuracy": (d == low) / 2} for d in densities})
    assert f"the model of {low:g} (50.00 %) serves boards at {top:g} better" in say
    assert f"density-{low:g}.safetensors" in command
    say, command = step({str(d): {"accuracy": d} for d in densities})
    assert "By the last scores" not in say
    assert f"density-{top:g}.safetensors" in command


def test_devices_that_are_offline_are_named_and_counted(past) -> None:
    view = RunSource(past.folder).run()
    view = replace(view, devices=[replace(d, online=False) for d in view.devices])
    step = next_step(view, past.folder, "", runs=True)
    assert "4 devices are offline: pi-0000, pi-0001, pi-0002 and 1 more" in step["say"]


def test_the_page_says_whether_a_coordinator_runs(past, serve) -> None:
    page = serve(past.folder)
    assert json.loads(page.get("api/run")[1])["runs"] is True  # this process holds it
    past.ledger.close()
    facts = json.loads(page.get("api/run")[1])
    assert facts["runs"] is False
    assert "flash-coordinator resume" in facts["next"]["commands"][0]["command"]
    past.__init__(past.folder)  # the fixture closes it


def test_every_file_has_a_command_that_checks_it_or_makes_one_of_it(past) -> None:
    models, exports = past.folder / "models", past.folder / "exports"
    for path in (
        models / "density-0.05.safetensors",
        models / "density-0.05.onnx-sparse.onnx",  # where build writes by default
        exports / "density-0.05.onnx",
        exports / "density-0.05.json",
        exports / "bundle" / "manifest.json",
        exports / "bundle" / "model.onnx",
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    commands = {f.path: f.command for f in RunSource(past.folder).exports.all()}
    assert len(commands) == 6
    checkpoint = f"--checkpoint {models / 'density-0.05.safetensors'}"
    for path, words in {
        "models/density-0.05.safetensors": "flash-export build ",
        "models/density-0.05.onnx-sparse.onnx": checkpoint,
        "exports/density-0.05.onnx": checkpoint,
        "exports/density-0.05.json": "sha256sum ",
        "exports/bundle/model.onnx": f"flash-export verify {exports / 'bundle'}",
    }.items():
        assert words in commands[path]
        assert words.startswith("sha256sum") or _parses(commands[path])


def test_files_are_listed_while_an_export_replaces_its_bundle(past) -> None:
    exports = past.folder / "exports"
    seen, listed = RunSource(past.folder).exports, []

    def export() -> None:
        for _ in range(40):
            scratch = exports / ".bundle-new"
            for no in range(20):
                (scratch / "bundle" / f"part-{no}").mkdir(parents=True)
                (scratch / "bundle" / f"part-{no}" / "model.onnx").write_bytes(b"x")
            if (exports / "bundle").exists():
                (exports / "bundle").replace(scratch / "old")
            (scratch / "bundle").replace(exports / "bundle")
            shutil.rmtree(scratch)

    with ThreadPoolExecutor(1) as pool:
        exporting = pool.submit(export)
        while not exporting.done():
            listed.append({f.path for f in seen.all()})
        exporting.result()
    assert not any(".bundle" in path for paths in listed for path in paths)
    assert len([f for f in seen.all() if f.path.startswith("exports/")]) == 20


def test_a_metric_that_is_no_share_has_its_name_and_no_percent_sign() -> None:
    for metrics, wanted in (
        ({"accuracy": 0.5, "loss": 1.0}, "50.00 %"),
        ({"accuracy": 2.8083, "loss": 1.0}, "loss 1"),  # is none
        ({"loss": 0.25}, "loss 0.25"),
        ({"rmse": 23.1402, "loss": 1.0}, "rmse 23.14"),
        ({"iou": 0.7, "loss": 1.0}, "iou 70.00 %"),
        ({"accuracy": None, "loss": None}, "accuracy is not finite"),
    ):
        assert score_text(metrics) == wanted
    mixed = metric_of([{"accuracy": 0.5}, {"accuracy": 2.8}])
    assert (mixed.name, mixed.is_share) == ("accuracy", False)
