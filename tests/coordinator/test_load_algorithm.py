"""An algorithm by name, by reference or as a value; a wrong slot is named at once."""

from __future__ import annotations

import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import coordinator
from coordinator.algorithms import ALGORITHMS
from coordinator.algorithms.load import check_algorithm, load_algorithm, name_of
from coordinator.settings import load_run
from edge_sdk.errors import SettingsError

OWN = """
from dataclasses import replace
import coordinator
mine = replace(coordinator.erk_frozen(), name="mine")
wrong = replace(mine, aggregate=lambda updates: updates)
number = 3
maker = coordinator.erk_frozen
"""
RUN = """
federation = "greenhouse"
task = "digits"
evaluation = "data"
densities = [0.1]
rounds = 2
algorithm = "{}"
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module of one's own beside the settings, not in the current folder."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    name = f"own_algorithms_{tmp_path.name}".replace("-", "_")
    (tmp_path / f"{name}.py").write_text(OWN, encoding="utf-8")
    return name


@pytest.mark.parametrize("name", ALGORITHMS)
def test_every_algorithm_of_the_table_passes_and_keeps_its_name(name: str) -> None:
    found = load_algorithm(name)
    assert check_algorithm(found) is found
    assert name_of(found) == found.name


@pytest.mark.parametrize(
    ("slot", "value", "says"),
    [
        ("on_drift", "often", "slot on_drift is 'often', not a number"),
        ("on_drift", None, "slot on_drift is None, not a number"),
        ("on_drift", True, "slot on_drift is True, not a number"),
        ("on_drift", -0.5, "slot on_drift is -0.5, not a number from 0 on"),
        ("on_drift", float("nan"), "slot on_drift is nan, not a number"),
        ("on_drift", np.float32(0.25), None),
        ("plan", None, "slot plan is None"),
        ("plan", lambda layers, densities: None, "slot plan takes"),
        ("assign", 3, "slot assign is 3"),
        ("assign", lambda _affordable, _densities: None, "slot assign gave None"),
        ("assign", lambda _a, _d: {}, "slot assign gave {}"),
        ("assign", lambda a, _d: a["pi"], "slot assign raised KeyError"),
        ("local", lambda: None, "slot local takes"),
        ("local", lambda _context: "frozen", "slot local gave 'frozen'"),
        ("plan", lambda _l, _d, _f, _s: {0.1: {}}, "slot plan gave a dict, not a Mask"),
        ("start", lambda _f, state, _w: state, "slot start gave a dict, not a Model"),
        ("aggregate", lambda base, _u: base, "slot aggregate gave a Model, not a pair"),
        ("aggregate", lambda _b, _u: None, "slot aggregate gave None, not a pair"),
        ("revise", lambda _f, model, _c, _m: model, "slot revise gave a Model, not a"),
        ("plan", lambda layers, _d, _f, _s: {}[layers[0]], None),  # knows its layers
        ("aggregate", lambda updates: updates, "slot aggregate takes"),
        ("aggregate", partial(max, 1, key=len), "slot aggregate cannot be called as"),
        ("aggregate", dict, "slot aggregate cannot be called as a slot is: dict"),
        ("revise", int, "slot revise"),
        ("plan", type, "slot plan"),
        ("start", str, "slot start"),
        ("aggregate", zip, "slot aggregate"),
        ("revise", lambda family, model: family, "slot revise takes"),
        ("start", "as initialised", "slot start is 'as initialised'"),
        ("evidence", 10, "slot evidence is neither None nor one of LayerSensitivity"),
        ("name", "", "slot name is no text"),
        ("name", None, "slot name is no text"),
    ],
)
def test_a_wrong_slot_is_named(slot: str, value: Any, says: str | None) -> None:
    algorithm = replace(coordinator.flash(), **{slot: value})
    if says is None:
        assert check_algorithm(algorithm) is algorithm
        return
    with pytest.raises(SettingsError) as caught:
        check_algorithm(algorithm)
    assert says in str(caught.value)


def test_a_coroutine_is_no_slot() -> None:
    async def aggregate(_base: object, _updates: object) -> None: ...

    wrong = replace(coordinator.flash(), aggregate=aggregate)  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match="slot aggregate is a coroutine function"):
        check_algorithm(wrong)


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (coordinator.flash, "not what it returns: call it"),
        (coordinator.Algorithm, "not what it returns: call it"),
        ({"name": "mine"}, "a dict, not a coordinator.Algorithm"),
        (
            SimpleNamespace(
                **{
                    slot: getattr(coordinator.flash(), slot)
                    for slot in (
                        "name",
                        "evidence",
                        "plan",
                        "assign",
                        "local",
                        "revise",
                    )
                }
            ),
            "it has no aggregate",
        ),
    ],
)
def test_what_is_no_algorithm_says_what_it_is(value: object, says: str) -> None:
    with pytest.raises(SettingsError, match=says):
        check_algorithm(value)


def test_an_algorithm_that_differs_from_the_tables_does_not_pass_for_it() -> None:
    assert name_of(coordinator.flash_edge()) == "flash-edge"
    assert name_of(coordinator.flash_edge(epochs=3)) == (
        "flash-edge with evidence=LayerSensitivity(epochs=3, prune_rate=0.25)"
    )
    assert name_of(replace(coordinator.erk_frozen(), name="mine")) == "mine"
    assert "0x" not in name_of(
        replace(coordinator.fedavg(), aggregate=lambda base, _updates: (base, {}))
    )


def test_a_run_names_an_algorithm_of_ones_own_beside_its_settings(
    tmp_path: Path, own: str
) -> None:
    path = tmp_path / "run.toml"
    path.write_text(RUN.format(f"{own}:mine"), encoding="utf-8")
    assert load_algorithm(load_run(path).algorithm).name == "mine"


@pytest.mark.parametrize(
    ("reference", "says"),
    [
        ("flahs", "none of .*did you mean flash"),
        ("{}:wrong", "slot aggregate takes"),
        ("{}:number", "is an int, not a coordinator.Algorithm"),
        ("{}:maker", "not what it returns: call it"),
        ("{}:nothing", "has nothing named 'nothing'"),
        ("no_module_of_this_name:mine", "importing no_module_of_this_name failed"),
    ],
)
def test_a_run_with_a_wrong_algorithm_is_refused_by_file_and_key(
    tmp_path: Path, own: str, reference: str, says: str
) -> None:
    path = tmp_path / "run.toml"
    path.write_text(RUN.format(reference.format(own)), encoding="utf-8")
    with pytest.raises(SettingsError, match=says) as caught:
        load_run(path)
    assert str(caught.value).startswith(f"{path}: key algorithm: ")


def test_a_module_that_ends_its_process_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    name = f"ends_{tmp_path.name}".replace("-", "_")
    (tmp_path / f"{name}.py").write_text("import sys\nsys.exit(2)\n", encoding="utf-8")
    with pytest.raises(SettingsError, match=f"importing {name} failed: SystemExit: 2"):
        load_algorithm(f"{name}:mine", beside=tmp_path)
