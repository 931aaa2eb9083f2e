"""The default codecs (int8 up, fp16 down) between real processes, over a crash."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from typing import Any

import pytest
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
from edge_sdk.wire.codec import unpack
from edge_sdk.wire.messages import TaskOrder
from edge_sdk.wire.values import unpack_values

pytestmark = pytest.mark.broker


def test_rounded_updates_survive_a_crash_and_add_up_to_the_same_bytes(
    federation: Callable[..., Any],
) -> None:
    fleet = federation(rounds=3)
    settings = fleet.run / "run.toml"
    settings.write_text(settings.read_text().split("[codec]")[0])
    fleet.start("coordinator", "run", str(fleet.run))
    fleet.start_devices()

    def an_open_round() -> bool:
        ledger = f"file:{fleet.run}/ledger.sqlite?mode=ro"  # it must not create it
        try:
            with opened(ledger) as db:
                query = "SELECT count(*) FROM tasks WHERE round = 2"
                return bool(db.execute(query).fetchone()[0])
        except sqlite3.Error:
            return False

    fleet.wait(an_open_round, "the tasks of round 2")
    fleet.kill("coordinator")
    fleet.start("coordinator", "resume", str(fleet.run))
    assert fleet.wait_end() == 0, fleet.logs()
    assert "cannot be made again" not in fleet.logs()
    ledger, task = read_ledger(fleet.run), load_task("digits")
    layers = with_units(task.model(), layers_of(task.model(), task.dense_layers))
    plan = {key: ledger.get(key) for key in ("counts", "boxes")}
    family = MaskFamily.planned(layers, plan, mask_seed(1, warm_up=False))
    orders = {t.id: unpack(t.order_bytes, TaskOrder) for t in ledger.tasks(3)}
    contributions = []
    for row in ledger.frozen(3):
        mask, payload = family.masks[row.density], ledger.blob(row.blob)
        codec = orders[row.task].codec
        assert codec.startswith("int8")
        assert len(payload) < 1.1 * (mask.nnz + 906) + 400  # one byte each, and names
        change = unpack_values(payload, mask, codec=codec)
        change = clipped(change, row.scale)
        contributions.append(Contribution(row.device, mask, row.weight, change))
    store = ModelStore(fleet.run, "digits", layers)
    base, kept = store.load(model_name(2)), store.load(model_name(3))
    model, _, _ = next_step(ALGORITHMS["flash-edge"], base, family, contributions)
    ledger.close()
    for part in ("masked", "dense"):
        made, found = getattr(model, part), getattr(kept, part)
        assert all(made[n].tobytes() == found[n].tobytes() for n in made)
