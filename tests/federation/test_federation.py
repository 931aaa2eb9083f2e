from __future__ import annotations

import contextlib
import math
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from brokers import KINDS, open_kind
from databases import opened

from coordinator.algorithms import ALGORITHMS
from coordinator.algorithms.base import MaskFamily
from coordinator.algorithms.mean import Contribution, clipped
from coordinator.checkpoints.models import ModelStore, model_name
from coordinator.ledger import read_ledger
from coordinator.rounds.round_step import next_step
from coordinator.rounds.tasks import mask_seed
from edge_sdk.tasks.graph.units import with_units
from edge_sdk.tasks.layers import layers_of
from edge_sdk.tasks.task import load_task
from edge_sdk.terminal import Exit
from edge_sdk.wire.values import unpack_values

pytestmark = pytest.mark.broker

Make = Callable[..., Any]


def rows(run: Path, query: str) -> list[tuple[Any, ...]]:
    with opened(f"file:{run}/ledger.sqlite?mode=ro") as db:
        return db.execute(query).fetchall()


def recomputed(run: Path, no: int) -> bool:
    """Whether a round's checkpoint is its base plus its frozen rows, bit for bit."""
    ledger = read_ledger(run)
    task = load_task("digits")
    layers = with_units(task.model(), layers_of(task.model(), task.dense_layers))
    plan = {key: ledger.get(key) for key in ("counts", "boxes")}
    family = MaskFamily.planned(layers, plan, mask_seed(1, warm_up=False))
    store = ModelStore(run, "digits", layers)
    base = store.load(model_name(no - 1))
    model, _, _ = next_step(
        ALGORITHMS["flash-edge"],
        base,
        family,
        [
            Contribution(
                r.device,
                family.masks[r.density],
                r.weight,
                clipped(
                    unpack_values(ledger.blob(r.blob), family.masks[r.density]),
                    r.scale,
                ),
            )
            for r in ledger.frozen(no)
        ],
    )
    kept = store.load(model_name(no))
    ledger.close()
    same = [model.masked[n].tobytes() == kept.masked[n].tobytes() for n in model.masked]
    same += [model.dense[n].tobytes() == kept.dense[n].tobytes() for n in model.dense]
    return all(same)


@pytest.mark.parametrize("kind", KINDS)
def test_three_devices_as_processes_train_one_model(
    federation: Make, kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    with contextlib.ExitStack() as stack:
        broker = ""  # the coordinator starts mosquitto
        if kind == "embedded":
            own = stack.enter_context(open_kind(kind, tmp_path / "own-broker"))
            broker = f"mqtt://127.0.0.1:{own.port}"
        elif kind == "rabbitmq":
            broker = f"mqtt://127.0.0.1:{request.getfixturevalue('rabbit').port}"
        _three_devices_train_one_model(federation(rounds=3, broker=broker))


def _three_devices_train_one_model(fleet: Any) -> None:
    fleet.start("coordinator", "run", str(fleet.run))
    fleet.start_devices()
    assert fleet.wait_end() == 0, fleet.logs()
    found = fleet.summary()
    assert found["rounds_done"] == 3
    assert found["updates"] == {"0": 2, "1": 3, "2": 3, "3": 3}
    densities = {d["name"]: d["density"] for d in found["devices"]}
    assert densities == {"pi-1": 0.1, "pi-2": 0.1, "orin-1": 0.4}
    # 75 steps at most, and fewer on a busy machine; guessing costs log 10.
    assert found["scores"]["3"]["0.4"]["loss"] < math.log(10)
    assert recomputed(fleet.run, 3)
    for name in ("pi-1", "pi-2", "orin-1"):
        assert fleet.wait_end(name) == 0, fleet.logs()


def test_an_update_costs_its_values_and_hardly_more(federation: Make) -> None:
    """4 bytes per kept value and dense entry within 1 %, protocol below 5 % on top."""
    fleet = federation(rounds=1)
    fleet.start("coordinator", "run", str(fleet.run))
    fleet.start_devices()
    assert fleet.wait_end() == 0, fleet.logs()
    kept = dict(rows(fleet.run, "SELECT density, size FROM updates u JOIN tasks t "
                                "ON t.id = u.task WHERE u.round = 1"))  # fmt: skip
    dense = 13_706 - 12_800
    for density, size in kept.items():
        values = 4 * (round(12_800 * density) + dense)
        names = 400  # the dense entries' names and shapes: fixed, whatever the model
        assert values <= size <= 1.01 * values + names


def test_a_coordinator_killed_in_a_round_resumes_and_counts_nobody_twice(
    federation: Make,
) -> None:
    fleet = federation(rounds=4)
    fleet.start("coordinator", "run", str(fleet.run))
    fleet.start_devices()

    def some_of_round_two() -> bool:
        if not (fleet.run / "ledger.sqlite").exists():
            return False
        try:
            found = rows(fleet.run, "SELECT count(*) FROM updates WHERE round = 2")
        except sqlite3.Error:
            return False
        return bool(found[0][0] >= 1)

    fleet.wait(some_of_round_two, "an update of round 2")
    fleet.kill("coordinator")  # and with it the broker that it had started
    fleet.start("coordinator", "resume", str(fleet.run))
    assert fleet.wait_end() == 0, fleet.logs()
    found = fleet.summary()
    assert found["rounds_done"] == 4
    assert found["rounds_aborted"] == []
    twice = rows(
        fleet.run, "SELECT round, device FROM updates GROUP BY 1, 2 HAVING count(*) > 1"
    )
    assert twice == []
    assert set(found["updates"].values()) == {2, 3}  # warm-up of two, rounds of three
    for no in (3, 4):  # older bases are pruned
        assert recomputed(fleet.run, no)


def test_a_device_killed_while_training_comes_back_and_is_counted_once(
    federation: Make,
) -> None:
    fleet = federation(rounds=3)
    fleet.start("coordinator", "run", str(fleet.run))
    fleet.start_devices()
    fleet.wait(lambda: fleet.rounds_done() >= 1, "round 1")
    fleet.kill("pi-1")
    fleet.start_device("pi-1")
    assert fleet.wait_end() == 0, fleet.logs()
    assert fleet.summary()["rounds_done"] == 3
    assert recomputed(fleet.run, 3)


def test_run_refuses_a_folder_with_a_run_and_resume_one_without(
    federation: Make,
) -> None:
    fleet = federation(rounds=1)
    fleet.start("coordinator", "resume", str(fleet.run))
    assert fleet.wait_end() == Exit.STATE
    assert "holds no run yet" in fleet.logs()
    fleet.start("coordinator", "run", str(fleet.run))
    fleet.start_devices()
    assert fleet.wait_end() == 0, fleet.logs()
    fleet.start("coordinator", "run", str(fleet.run))
    assert fleet.wait_end() == Exit.STATE
    assert "holds a run already" in fleet.logs()


@pytest.mark.parametrize(
    ("change", "said", "code"),
    [
        (
            ("rounds = 1", 'rounds = "1"'),
            "key rounds: Expected `int`, got `str`",
            Exit.SETTINGS,
        ),
        (("rounds = 1", "rounds = 1\nfoo = 3"), "unknown field `foo`", Exit.SETTINGS),
        (("0.1, 0.4", "0.1, 1.4"), "density 1.4 is outside (0, 1]", Exit.SPARSITY),
        (('"digits"', '"nowhere:task"'), "importing nowhere failed", Exit.TASK),
        (('/evaluation"', '/pi-1"'), "holds no eval.npz", Exit.DATA),
        (
            (
                "port =",
                'broker = "mqtts://127.0.0.1:1"\nbroker_ca = "none.pem"\n#',
            ),
            "none.pem",
            Exit.BROKER,
        ),
    ],
    ids=["type", "unknown key", "density", "task", "empty data", "no authority"],
)
def test_what_cannot_work_is_refused_before_anything_starts(
    federation: Make, change: tuple[str, str], said: str, code: Exit
) -> None:
    fleet = federation(rounds=1)
    text = (fleet.run / "run.toml").read_text()
    (fleet.run / "run.toml").write_text(text.replace(*change))
    fleet.start("coordinator", "run", str(fleet.run))
    assert fleet.wait_end() == code
    assert said in fleet.logs()
    assert "Traceback" not in fleet.logs()
