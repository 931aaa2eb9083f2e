"""Whole simulations on real workers: same bytes, same rounds, whatever happens."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from killed_run import killed_in_round

from coordinator.algorithms import ALGORITHMS
from coordinator.algorithms.base import keep_masks
from coordinator.checkpoints.models import model_name
from coordinator.settings import TrainingSettings
from coordinator.simulation.record import RoundRecord, read_records
from coordinator.simulation.rounds import Simulation
from coordinator.simulation.run import load_simulation, simulate
from coordinator.simulation.settings import FleetGroup, SimulationSettings
from coordinator.simulation.workers.interface import Workers
from edge_sdk.datasets.partition import save_partition
from edge_sdk.errors import DataError, DensityError, RunError, SettingsError, StateError
from edge_sdk.tasks.task import Examples
from edge_sdk.terminal import Exit

Make = Callable[..., Simulation]


def play(simulation: Simulation, pool: Workers) -> list[RoundRecord]:
    while not simulation.done:
        simulation.step(pool)
    return simulation.journal.records


def timeless(records: list[RoundRecord]) -> list[RoundRecord]:
    return [msgspec.structs.replace(r, wall_s=0.0) for r in records]


def model_bytes(folder: Path, no: int) -> bytes:
    return (folder / "checkpoints" / model_name(no)).read_bytes()


@pytest.mark.parametrize("name", ALGORITHMS)
def test_every_algorithm_plays_stops_and_goes_on_with_the_same_bytes(
    make: Make, pool: Workers, tmp_path: Path, name: str
) -> None:
    change = {"algorithm": name, "densities": [0.1, 0.4]}
    records = play(make("whole", **change), pool)
    assert [r.round for r in records] == [0, 1, 2]
    stopped = make("stopped", **change)
    for _ in range(2):
        stopped.step(pool)
    simulation = make("stopped", **change)
    assert timeless(play(simulation, pool)) == timeless(records)
    assert model_bytes(tmp_path / "whole", 2) == model_bytes(tmp_path / "stopped", 2)
    assert simulation.model is not None
    assert simulation.family is not None
    assert simulation.model.mask.digest == simulation.family.top.digest
    for density, mask in simulation.family.masks.items():
        wanted = int(density * mask.numel + 1e-9)
        drawn = name.endswith("released")  # its counts are drawn, too
        assert abs(mask.nnz - wanted) <= (5 * wanted**0.5 if drawn else 0)
    for record in records[1:]:
        assert len(record.accepted) == 3
        assert set(record.scores) == {f"{d:g}" for d in simulation.family.masks}
        assert record.bytes_up > 0
        frozen = ALGORITHMS[name].revise is keep_masks
        assert (record.mismatch == 0.0) or not frozen


def test_masks_that_move_cost_their_structure_and_show_as_mismatch(
    make: Make, pool: Workers
) -> None:
    frozen = play(make("flash"), pool)
    moving = play(make("jmwst", algorithm="jmwst"), pool)
    assert moving[1].bytes_up > frozen[1].bytes_up + 3 * 500
    assert moving[2].bytes_down > frozen[2].bytes_down + 3 * 500
    assert 0.0 < moving[2].mismatch < 1.0
    static = play(make("salient", algorithm="salientgrads", cohort=6), pool)
    assert static[1].bytes_down > static[2].bytes_down + 6 * 500  # sent once


def test_any_number_of_workers_gives_the_same_bytes(
    make: Make, pool: Workers, cache: Path, tmp_path: Path
) -> None:
    two = play(make("two"), pool)
    settings = msgspec.structs.replace(make("two").settings, engine="auto")
    one = simulate(tmp_path / "one", settings, worker_count=1, cache=cache)
    assert timeless(one) == timeless(two)
    for no in (0, 1, 2):
        assert model_bytes(tmp_path / "one", no) == model_bytes(tmp_path / "two", no)


def test_bytes_are_those_of_the_packed_payloads(make: Make, pool: Workers) -> None:
    simulation = make(algorithm="pdst")
    records = play(simulation, pool)
    dense = 13_706 - 12_800
    values = 3 * 4 * (1280 + dense)  # three devices, fp32
    assert values < records[1].bytes_up < 1.2 * values
    assert values < records[1].bytes_down < 1.25 * values
    assert records[2].total_up == records[1].bytes_up + records[2].bytes_up
    assert records[0].total_up == 0
    flash = play(make("flash"), pool)
    assert 0 < flash[0].bytes_up < 1500  # evidence is a few counts
    assert flash[0].bytes_down > 2 * 4 * 1280


def test_a_frozen_mask_does_not_move_and_is_held_by_all(
    make: Make, pool: Workers
) -> None:
    last = play(make(), pool)[-1]
    assert (last.mismatch, last.uncovered, last.coverage) == (0.0, 0.0, 3.0)
    kept = last.layers["0.1"]
    sizes = {"conv2.weight": 4608, "fc1.weight": 8192}
    assert sum(kept[n] * sizes[n] for n in sizes) == pytest.approx(1280, abs=0.1)


def test_two_methods_at_one_seed_share_partition_cohorts_and_first_weights(
    make: Make, pool: Workers
) -> None:
    first, second = make("a", algorithm="pdst"), make("b", algorithm="erk")
    one, two = play(first, pool), play(second, pool)
    assert [r.accepted for r in one] == [r.accepted for r in two]
    assert [d.folder for d in first.fleet.devices.values()] == [
        d.folder for d in second.fleet.devices.values()
    ]
    other = play(make("c", algorithm="pdst", seed=2), pool)
    assert [r.accepted for r in other] != [r.accepted for r in one]


def test_weak_devices_train_a_nested_mask_and_stragglers_cost_no_training(
    make: Make, pool: Workers
) -> None:
    fleet = [
        FleetGroup(share=0.5, density=0.1, board="raspberry_pi_zero_2_w"),
        FleetGroup(share=0.5, density=0.4, board="jetson_orin_nano"),
    ]
    simulation = make(
        algorithm="flash-edge", densities=[0.1, 0.4], fleet=fleet, jitter=0.2, cohort=2
    )
    records = play(simulation, pool)
    for record in records[1:]:
        assert record.asked == 3
        assert len(record.accepted) == 2
        assert len(record.seconds) == 3
    assert records[2].clock_s > records[1].clock_s > records[0].clock_s > 0


def test_a_round_without_its_quorum_leaves_the_model_and_five_end_the_run(
    make: Make, pool: Workers, tmp_path: Path
) -> None:
    simulation = make(algorithm="pdst", dropout=0.99)
    with pytest.raises(RunError, match="5 rounds in a row were given up"):
        play(simulation, pool)
    assert all(r.note for r in simulation.journal.records[1:])
    last = simulation.journal.records[-1].round
    again = make(algorithm="pdst", dropout=0.99)
    assert again.model is not None
    assert simulation.model is not None
    for name, values in simulation.model.masked.items():
        np.testing.assert_array_equal(again.model.masked[name], values)
    assert last == 5


def test_a_density_below_the_unit_floors_names_the_smallest(
    make: Make, pool: Workers
) -> None:
    with pytest.raises(DensityError, match="the smallest density is"):
        make(algorithm="pdst", densities=[0.001]).step(pool)


@pytest.mark.parametrize("engine", ["program", "torch"])
def test_without_floors_a_layer_may_be_empty_and_the_run_goes_on(
    make: Make, pool: Workers, engine: str
) -> None:
    simulation = make(algorithm="pdst-released", densities=[0.0001], engine=engine)
    records = play(simulation, pool)
    assert 0 in records[-1].layers["0.0001"].values()
    assert all(np.isfinite(r.loss) for r in records[1:] if r.loss is not None)


def own_folder(
    folder: Path, empty: bool = False, classes: int = 10, count: int = 20
) -> SimulationSettings:
    rng = np.random.default_rng(0)
    for name in ("a", "b", "evaluation"):
        inputs = rng.integers(0, 17, (count, 1, 8, 8)).astype(np.uint8)
        found = Examples(inputs, rng.integers(0, classes, count))
        save_partition(
            folder / name, found, part="eval" if name == "evaluation" else "train"
        )
    if empty:
        np.savez(
            folder / "b" / "train.npz",
            inputs=np.zeros((0, 1, 8, 8), np.uint8),
            targets=np.zeros(0, np.int64),
        )
    return SimulationSettings(
        task="digits",
        folder=str(folder),
        cohort=2,
        densities=[0.2],
        rounds=2,
        algorithm="pdst",
        engine="torch",
    )


def test_a_device_without_examples_is_named_and_the_other_goes_on(
    tmp_path: Path,
) -> None:
    settings = own_folder(tmp_path / "data", empty=True)
    first, *rounds = simulate(tmp_path / "run", settings, worker_count=1)
    assert "there are no examples" in first.unable["b"]
    assert [r.accepted for r in rounds] == [["a"], ["a"]]


@pytest.mark.parametrize(("classes", "count"), [(1, 20), (10, 1)])
def test_one_class_only_and_one_example_only_are_no_trouble(
    tmp_path: Path, classes: int, count: int
) -> None:
    settings = own_folder(tmp_path / "data", classes=classes, count=count)
    settings = msgspec.structs.replace(settings, algorithm="flash")
    last = simulate(tmp_path / "run", settings, worker_count=1)[-1]
    assert last.loss is not None
    assert np.isfinite(last.loss)
    assert len(last.accepted) == 2
    if classes == 1 and count > 1:
        assert last.scores["0.2"]["accuracy"] == 1.0


def test_fewer_examples_than_devices_is_an_error_with_both_numbers(
    make: Make, tmp_path: Path, cache: Path
) -> None:
    settings = msgspec.structs.replace(make().settings, devices=1500)
    with pytest.raises(DataError, match="1433 examples cannot be cut into 1500") as one:
        simulate(tmp_path / "x", settings, worker_count=1, cache=cache)
    assert "fewer devices" in one.value.help


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"algorithm": "magic"}, "'magic' is none of"),
        ({"folder": "x"}, "name one of data"),
        (
            {"algorithm": "nst", "training": TrainingSettings(power=1.5)},
            "nst moves its masks",
        ),
        ({"cohort": 7}, "wants 7 updates and there are 6 devices"),
        ({"fleet": [FleetGroup(share=0.5)]}, "sum to 0.5"),
        (
            {"fleet": [FleetGroup(share=1.0, density=0.3)]},
            "none of the run's densities",
        ),
    ],
)
def test_settings_that_do_not_go_together_are_refused(
    make: Make, tmp_path: Path, cache: Path, changes: dict[str, Any], said: str
) -> None:
    settings = msgspec.structs.replace(make().settings, **changes)
    with pytest.raises(SettingsError, match=said):
        simulate(tmp_path / "x", settings, worker_count=1, cache=cache)


def test_a_folder_keeps_to_its_settings(
    make: Make, tmp_path: Path, cache: Path
) -> None:
    settings = msgspec.structs.replace(make().settings, rounds=1, algorithm="pdst")
    simulate(tmp_path / "x", settings, worker_count=1, cache=cache)
    other = msgspec.structs.replace(settings, rounds=2, seed=3)
    with pytest.raises(StateError, match="other settings: rounds, seed"):
        simulate(tmp_path / "x", other, worker_count=1, cache=cache)


TASK = """
import os
from dataclasses import replace
from pathlib import Path
from edge_sdk.zoo.tasks.digits import task as digits

def deadly(folder):
    found = digits.train_data(folder)
    if Path("deadly").exists() and os.environ.get("PYTEST_PARENT") != str(os.getpid()):
        os.kill(os.getpid(), 9)
    return found

task = replace(digits, train_data=deadly)
"""


def command(folder: Path, *more: str) -> list[str]:
    return [
        *(sys.executable, "-m", "coordinator.cli", "simulate", str(folder)),
        *("--settings", "sim.toml", "--workers", "1", *more),
    ]


def write_settings(folder: Path, rounds: int, task: str = "digits") -> None:
    own_folder(folder / "data")
    (folder / "own.py").write_text(TASK)
    (folder / "sim.toml").write_text(
        f'task = "{task}"\nfolder = "{folder}/data"\ncohort = 2\ndensities = [0.2]\n'
        f'rounds = {rounds}\nalgorithm = "flash"\n'
        "[warm_up]\ndevices = 2\nepochs = 2\n"
    )


def test_a_run_goes_on_where_its_examples_were_moved_to_and_not_without_its_devices(
    tmp_path: Path,
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    write_settings(first, 1)
    subprocess.run(command(first / "run"), cwd=first, check=True, capture_output=True)
    first.rename(second)
    settings = load_simulation(second / "run")
    assert settings is not None
    moved = msgspec.structs.replace(settings, folder=str(second / "data"))
    assert len(simulate(second / "run", moved, worker_count=1)) == 2
    (second / "data" / "a").rename(second / "data" / "other")
    with pytest.raises(StateError, match="a has trained in this run"):
        simulate(second / "run", moved, worker_count=1)
    assert load_simulation(second / "run") == moved


def test_killed_and_started_again_it_ends_with_the_same_bytes(tmp_path: Path) -> None:
    write_settings(tmp_path, 12)
    run = tmp_path / "killed"
    killed_in_round(4, 12, run, *command(run)[3:])
    for folder in (run, tmp_path / "whole"):
        subprocess.run(command(folder), cwd=tmp_path, check=True, capture_output=True)
    assert timeless(read_records(run)) == timeless(read_records(tmp_path / "whole"))
    assert model_bytes(run, 12) == model_bytes(tmp_path / "whole", 12)


def test_a_worker_that_dies_ends_the_run_with_a_remedy_and_it_goes_on(
    tmp_path: Path,
) -> None:
    write_settings(tmp_path, 2, "own:task")
    (tmp_path / "deadly").touch()
    code = (
        "import os, sys; os.environ['PYTEST_PARENT'] = str(os.getpid());"
        "sys.argv = sys.argv[1:]; from coordinator.cli import main; main()"
    )
    arguments = [sys.executable, "-c", code, *command(tmp_path / "run")[2:]]
    done = subprocess.run(
        arguments, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == Exit.RUN
    assert "a worker of the simulation was killed (signal 9)" in done.stderr
    assert "fewer --workers" in done.stderr
    assert "Traceback" not in done.stderr
    (tmp_path / "deadly").unlink()
    env = {**os.environ, "PYTEST_PARENT": ""}
    subprocess.run(
        command(tmp_path / "run"),
        cwd=tmp_path,
        check=True,
        capture_output=True,
        env=env,
    )
    assert [r.round for r in read_records(tmp_path / "run")] == [0, 1, 2]


def test_a_task_that_raises_is_named_with_the_device_and_the_line(
    tmp_path: Path,
) -> None:
    write_settings(tmp_path, 1, "own:task")
    wrong = (  # only of a whole batch: where examples are read, few go through
        "def wrong(out, wanted):\n    shape = (7,) if len(out) > 8 else out.shape\n"
        "    return out.view(shape).sum()\n"
    )
    text = TASK.replace("train_data=deadly", "loss=wrong")
    (tmp_path / "own.py").write_text(text.replace("task = ", f"{wrong}task = "))
    done = subprocess.run(
        command(tmp_path / "run"),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == Exit.TASK, done.stderr
    assert re.search(
        r"task digits: training on [ab] raised RuntimeError: .*\(own\.py, line 15\)",
        done.stderr,
    )
    assert "Traceback" not in done.stderr


def test_an_unknown_preset_lists_those_there_are(tmp_path: Path) -> None:
    done = subprocess.run(
        [*command(tmp_path / "run")[:5], "--preset", "magic"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == Exit.SETTINGS
    assert "flash-mnist" in done.stderr
