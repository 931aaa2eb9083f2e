"""Published tables: every cell is a run that can be, and a table is run and told."""

from __future__ import annotations

import logging
import math
from pathlib import Path

import msgspec
import pytest

from coordinator.simulation.presets import PRESETS, RELEASED
from coordinator.simulation.record import read_records
from coordinator.simulation.run import load_simulation, simulate
from coordinator.simulation.settings import SimulationSettings, check_simulation
from edge_sdk.errors import SettingsError
from edge_sdk.tasks.layers import layers_of
from edge_sdk.tasks.task import load_task
from examples.reproduce.run import difference_text, markdown, reproduce
from examples.reproduce.tables import TABLES, Cell, Kind, cells_of

KINDS: tuple[Kind, ...] = ("paper", "released")


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_a_run_of_a_task_that_loads(name: str) -> None:
    settings = check_simulation(msgspec.convert(PRESETS[name], SimulationSettings))
    task = load_task(settings.task)
    assert layers_of(task.model(), task.dense_layers)


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_tables_cells_are_runs_with_names_of_their_own(
    table: str, kind: Kind
) -> None:
    cells = cells_of(table, kind)
    assert len({cell.name for cell in cells}) == len(cells) > 0
    for cell in cells:
        check_simulation(cell.settings)
        assert cell.density in {1.0, *cell.settings.densities}
        if "released" in cell.name and "flash" in table:
            training = cell.settings.training
            assert [training.rate_at(no, 400) for no in (1, 2)] == [0.1, 0.1]
            assert training.rate_at(400, 400) == pytest.approx(0.1 * 0.01**0.398)
            assert cell.settings.algorithm not in RELEASED


def test_the_paper_s_tables_are_whole() -> None:
    """FLASH v1: 21 settings, dense in seven of them; SalientGrads: five ResNets."""
    assert len(cells_of("flash-2", "paper")) == 14 * 3 + 7
    assert len(cells_of("flash-4", "paper")) == 7
    assert len(cells_of("salientgrads-2", "paper")) == 5
    first = cells_of("flash-2", "paper")[0]
    assert (first.name, first.published) == ("mnist-a1-d0.05-flash", (97.30, 0.26))
    # One method has one published figure, whichever table of ours it stands in.
    methods = {cell.name: cell.published for cell in cells_of("methods", "paper")}
    assert methods["mnist-a0.1-d0.05-pdst"] == (91.06, 1.10)
    assert methods["mnist-a1000-d1-fedavg"] == (98.79, 0.06)
    assert methods["mnist-a1-d0.05-erk"] is None
    third = {cell.name: cell.published for cell in cells_of("flash-3", "paper")}
    assert third["cifar10-a1000-d0.05-zerofl"] == (78.22, 0.35)
    fourth = {cell.name: cell.published for cell in cells_of("flash-4", "paper")}
    assert fourth["mnist-hetero-a0.1-d0.2-hetero-flash"] == (97.63, 0.22)
    unequal = {cell.name: cell.published for cell in cells_of("hetero", "paper")}
    assert unequal["mnist-hetero-a1-d0.1-hetero-flash"] is None


def tiny(_kind: Kind) -> list[Cell]:
    raw = {
        **PRESETS["digits"],
        "devices": 4,
        "cohort": 2,
        "training": {"batch_size": 8, "max_steps": 3},
    }
    digits = msgspec.convert({**raw, "algorithm": "pdst"}, SimulationSettings)
    absent = msgspec.structs.replace(digits, task="cifar10", data="cifar10")
    return [
        Cell("digits-pdst", digits, 0.1, (12.3, 0.4)),
        Cell("absent", absent, 0.1, (12.3, None)),
    ]


def test_a_table_is_run_over_its_seeds_and_goes_on(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setitem(TABLES, "tiny", tiny)
    monkeypatch.setenv("FLASH_EDGE_DATA", str(tmp_path))
    monkeypatch.setenv("PATH", "")  # no npm
    runs, cache = tmp_path / "runs", tmp_path / "cache"

    def told(*, report: bool) -> list[str]:
        rows = reproduce(
            runs,
            "tiny",
            kind="paper",
            seeds=2,
            rounds=2,
            worker_count=1,
            report=report,
            cache=cache,
        )
        return markdown(rows).splitlines()

    assert (
        "| digits-pdst | 2 | 0 |  |  | 12.30 +- 0.40 (20 rounds) |"
        in told(report=True)[2]
    )
    with caplog.at_level(logging.WARNING):
        lines = told(report=False)
    assert "absent-r2-s1 is left out: cifar10 is not in" in caplog.text
    _, name, rounds, seeds, accuracy, _, published, down, up, fewer, _ = (
        part.strip() for part in lines[2].split("|")
    )
    assert (name, rounds, seeds, published) == (
        "digits-pdst",
        "2",
        "2",
        "12.30 +- 0.40 (20 rounds)",
    )
    ends = [read_records(runs / f"digits-pdst-r2-s{seed}")[-1] for seed in (1, 2)]
    own = [100 * end.scores["0.1"]["accuracy"] for end in ends]
    assert accuracy.startswith(f"{sum(own) / 2:.2f} +- ")
    assert int(up.replace(",", "")) == round(sum(e.total_up for e in ends) / 8)
    assert int(down.replace(",", "")) > int(up.replace(",", "")) > 4 * 1280
    assert fewer.endswith("x")
    assert "| absent | 2 | 0 |" in lines[3]
    assert told(report=False) == told(report=True) == lines  # nothing runs twice
    assert len(read_records(runs / "digits-pdst-r2-s1")) == 3


def test_a_difference_is_paired_by_seed_and_has_students_interval() -> None:
    one, other = {1: 97.0, 2: 98.0, 3: 96.0, 4: 1.0}, {1: 96.0, 2: 96.0, 3: 95.0}
    # differences 1, 2, 1: mean 4/3, deviation .577, half-width 4.303 x .577 / sqrt(3)
    assert difference_text(one, other) == "+1.33 [-0.10, +2.77]"
    assert difference_text({1: 95.0}, other) == "-1.00"
    assert difference_text({9: 95.0}, other) == ""


def test_an_unknown_table_or_cell_lists_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="no table 'flash-9'") as refused:
        reproduce(tmp_path, "flash-9", kind="paper", seeds=1)
    assert "flash-2" in refused.value.help
    with pytest.raises(SettingsError, match="no cell with 'svhn'") as refused:
        reproduce(tmp_path, "flash-4", kind="paper", seeds=1, only="svhn")
    assert "mnist-hetero-a1-d0.2-hetero-flash" in refused.value.help


def test_devices_that_are_all_alike_go_on_too(tmp_path: Path) -> None:
    """JSON has no infinity; the settings come back with it."""
    settings = msgspec.structs.replace(
        tiny("paper")[0].settings, alpha=math.inf, rounds=1
    )
    for _ in range(2):
        simulate(tmp_path / "run", settings, worker_count=1, cache=tmp_path / "cache")
    known = load_simulation(tmp_path / "run")
    assert known is not None
    assert known.alpha == math.inf
