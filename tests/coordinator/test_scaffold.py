"""SCAFFOLD against plain numpy, and what a device remembers through a kill."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from killed_run import killed_in_round
from numpy.typing import NDArray
from torch import nn

import coordinator
from coordinator.algorithms.base import MaskFamily
from coordinator.algorithms.load import check_algorithm
from coordinator.algorithms.mean import Contribution, Model
from coordinator.rounds.round_step import next_step
from coordinator.settings import RunSettings, TrainingSettings, check_algorithm_fits
from edge_sdk.errors import CheckpointError, SettingsError
from edge_sdk.sparse import LayerShape
from edge_sdk.storage.memory import DeviceMemory
from edge_sdk.tasks.task import Examples, Task
from edge_sdk.training.local import batches
from edge_sdk.training.runner import TaskRunner
from edge_sdk.training.total_rate import total_rate
from edge_sdk.wire.blob import manifest_of
from edge_sdk.wire.messages import TaskOrder, Training
from edge_sdk.wire.rules import Controlled, Frozen
from edge_sdk.wire.values import Values, pack_values, unpack_values

Array = NDArray[np.float64]
LAYERS = (LayerShape("0.weight", (3, 5)),)
DEVICES = ("a", "b", "c")
RNG = np.random.default_rng(8)
DATA = {d: (RNG.normal(size=(12 + 4 * i, 5)), i) for i, d in enumerate(DEVICES)}
ETA = 0.3
NEAR: Any = {"rtol": 1e-3, "atol": 1e-5}


def labels(device: str) -> NDArray[np.int64]:
    inputs, shift = DATA[device]
    return np.asarray((np.argmax(inputs[:, :3], axis=1) + shift) % 3)


def nothing(_: Path) -> Examples:
    raise AssertionError


TASK = Task(
    name="toy",
    model=lambda: nn.Sequential(nn.Linear(5, 3)),
    loss=nn.functional.cross_entropy,
    train_data=nothing,
    eval_data=nothing,
    input_shape=(5,),
)


def slope(w: Array, b: Array, device: str, index: NDArray[np.int64]) -> Any:
    """The gradient of the mean cross-entropy on some examples, by hand."""
    x, y = DATA[device][0][index], labels(device)[index]
    logits = x @ w.T + b
    share = np.exp(logits - logits.max(1, keepdims=True))
    share /= share.sum(1, keepdims=True)
    share[np.arange(len(index)), y] -= 1
    return share.T @ x / len(index), share.mean(0)


def plan_of(no: int) -> Training:
    return Training(epochs=2, batch_size=4, learning_rate=ETA, seed=no)


def published(mask: NDArray[np.bool_], w: Array, cohorts: list[str]) -> Any:
    """Algorithm 1, option II; c is the mean over those who have taken part."""
    b = np.zeros(3)
    c = {"w": np.zeros_like(w), "b": np.zeros(3)}
    own: dict[str, dict[str, Array]] = {}
    for no, cohort in enumerate(cohorts, 1):
        moved = {}
        for d in cohort:
            mine = own.get(d, {"w": np.zeros_like(w), "b": np.zeros(3)})
            y, z, steps = w.copy(), b.copy(), 0
            for _, index in batches(len(DATA[d][0]), plan_of(no)):
                gw, gb = slope(y, z, d, index)
                y = y - ETA * (gw - mine["w"] + c["w"]) * mask
                z = z - ETA * (gb - mine["b"] + c["b"])
                steps += 1
            own[d] = {
                "w": (mine["w"] - c["w"] + (w - y) / (steps * ETA)) * mask,
                "b": mine["b"] - c["b"] + (b - z) / (steps * ETA),
            }
            moved[d] = y, z
        size = {d: len(DATA[d][0]) for d in cohort}
        whole = sum(size.values())
        w = sum(size[d] * moved[d][0] for d in cohort) / whole
        b = sum(size[d] * moved[d][1] for d in cohort) / whole
        c = {k: np.mean([m[k] for m in own.values()], axis=0) for k in ("w", "b")}
    return w, b, c, own


def federated(cohorts: list[str], folder: Path) -> Any:
    """The same by a device's runner and a coordinator's step."""
    algorithm = coordinator.scaffold()
    family = MaskFamily.draw(LAYERS, {0.6: {"0.weight": 9}}, 3)
    top = family.top
    start = np.random.default_rng(1).normal(size=9).astype(np.float32)
    first = Model(top, {"0.weight": start}, {"0.bias": np.zeros(3, np.float32)})
    assert algorithm.init_state is not None
    model = replace(first, state=algorithm.init_state(first))
    runners, memories, after = {}, {}, dict.fromkeys(DEVICES, "")
    for d in DEVICES:
        examples = Examples(DATA[d][0].astype(np.float32), labels(d))
        runners[d] = TaskRunner(TASK, examples, "masked")
        memories[d] = DeviceMemory(folder / d)
    for no, cohort in enumerate(cohorts, 1):
        base, sent = pack_values(model.sent(top), top), []
        for d in cohort:
            order = TaskOrder(
                id=f"{no}-{d}", round_no=no, density=0.6, base=manifest_of(base),
                mask=family.recipe(top), rule=Controlled(after=after[d]),
                training=plan_of(no), ttl_ms=1000, shard=0, codec="fp32",
            )  # fmt: skip
            told = memories[d].read(order)
            done = runners[d].run(order, base, lambda: False, b"", told)
            again = runners[d].run(order, base, lambda: False, b"", told)
            assert (again.payload, again.memory) == (done.payload, done.memory)
            memories[d].keep(order, done.memory)
            change = unpack_values(done.payload, top)
            steps = int(done.offer.metrics["steps"])
            sent.append(
                Contribution(
                    *(d, top, done.offer.examples, change),
                    total_rate=total_rate(ETA, steps),
                    first=not after[d],
                )
            )
            after[d] = order.id
        model, family, _ = next_step(algorithm, model, family, sent)
    return start, top["0.weight"], model, memories, after


@pytest.mark.parametrize(
    "cohorts", [["abc"], ["ab", "bc", "a", "abc"]], ids=["once", "some of them"]
)
def test_it_walks_as_published(tmp_path: Path, cohorts: list[str]) -> None:
    start, mask, model, memories, after = federated(cohorts, tmp_path)
    w = np.zeros((3, 5))
    w[mask] = start
    w, b, c, own = published(mask, w, cohorts)
    control = model.state[".control"]
    np.testing.assert_allclose(model.masked["0.weight"], w[mask], **NEAR)
    np.testing.assert_allclose(model.dense["0.bias"], b, **NEAR)
    np.testing.assert_allclose(control["0.weight"], c["w"][mask], **NEAR)
    np.testing.assert_allclose(control["0.bias"], c["b"], **NEAR)
    for d, mine in own.items():
        order = TaskOrder(
            id="next", round_no=9, density=0.6, base=manifest_of(b"-"),
            mask=MaskFamily(LAYERS, {0.6: model.mask}, 3).recipe(model.mask),
            rule=Controlled(after=after[d]), training=plan_of(9), ttl_ms=1, shard=0,
            codec="fp32",
        )  # fmt: skip
        kept = unpack_values(memories[d].read(order), model.mask)
        np.testing.assert_allclose(kept.masked["0.weight"], mine["w"][mask], **NEAR)
        np.testing.assert_allclose(kept.dense["0.bias"], mine["b"], **NEAR)


@given(st.integers(1, 40), st.floats(0.0, 0.99), st.floats(1e-3, 1.0))
def test_a_total_rate_is_what_a_gradient_of_one_moves(
    steps: int, momentum: float, rate: float
) -> None:
    moved, buffer = 0.0, 0.0
    for _ in range(steps):
        buffer = momentum * buffer + 1
        moved += rate * buffer
    assert total_rate(rate, steps, momentum=momentum) == pytest.approx(moved, rel=1e-6)


def test_only_what_algorithms_send_goes_along_and_nested_masks_get_their_part() -> None:
    family = MaskFamily.draw(LAYERS, {0.6: {"0.weight": 9}, 0.4: {"0.weight": 6}}, 3)
    values = {"0.weight": np.arange(9, dtype=np.float32)}
    model = Model(family.top, values, {"0.bias": np.ones(3, np.float32)})
    assert set(model.sent(family.top).dense) == {"0.bias"}
    state = {".control": {**values, "0.bias": np.ones(3, np.float32)}, "held": values}
    model = replace(model, state=state)
    small = family.masks[0.4]
    sent = model.sent(small)
    assert set(sent.dense) == {"0.bias", ".control.0.weight", ".control.0.bias"}
    np.testing.assert_array_equal(
        sent.dense[".control.0.weight"], model.on(small).masked["0.weight"]
    )
    back = unpack_values(pack_values(sent, small), small)
    np.testing.assert_array_equal(
        back.dense[".control.0.weight"], sent.dense[".control.0.weight"]
    )


def order_after(task: str, after: str) -> TaskOrder:
    family = MaskFamily.draw(LAYERS, {0.6: {"0.weight": 9}}, 3)
    return TaskOrder(
        id=task, round_no=1, density=0.6, base=manifest_of(b"-"),
        mask=family.recipe(family.top), rule=Controlled(after=after),
        training=plan_of(1), ttl_ms=1, shard=0, codec="fp32",
    )  # fmt: skip


def test_a_memory_belongs_to_the_task_that_counted(tmp_path: Path) -> None:
    """A refused or late update leaves the one before to go on from."""
    memory = DeviceMemory(tmp_path / "own")
    assert memory.read(order_after("1", "")) == b""
    memory.keep(order_after("1", ""), b"one")
    memory.keep(order_after("2", "1"), b"two")  # was not counted
    assert memory.read(order_after("3", "1")) == b"one"
    memory.keep(order_after("3", "1"), b"three")
    assert memory.read(order_after("4", "3")) == b"three"
    assert memory.read(order_after("4", "2")) == b""  # gone: no order can name it
    memory.keep(order_after("4", "3"), b"four")
    assert len(list((tmp_path / "own").iterdir())) == 2
    assert (
        memory.read(msgspec.structs.replace(order_after("5", "4"), rule=Frozen()))
        == b""
    )
    hostile = order_after("../../x", "../../etc/passwd")
    memory.keep(hostile, b"mine")
    assert memory.read(hostile) == b""
    assert {p.parent for p in tmp_path.rglob("*.memory")} == {tmp_path / "own"}


def test_a_damaged_memory_is_none_and_a_full_disk_is_said(tmp_path: Path) -> None:
    memory = DeviceMemory(tmp_path / "own")
    memory.keep(order_after("1", ""), b"one")
    (path,) = (tmp_path / "own").iterdir()
    for at in range(len(path.read_bytes())):
        whole = bytearray(path.read_bytes())
        whole[at] ^= 1
        (tmp_path / "copy").mkdir(exist_ok=True)
        (tmp_path / "copy" / path.name).write_bytes(bytes(whole))
        assert DeviceMemory(tmp_path / "copy").read(order_after("2", "1")) == b""
    path.write_bytes(b"")
    assert memory.read(order_after("2", "1")) == b""
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(CheckpointError):
        DeviceMemory(tmp_path / "file" / "own").keep(order_after("1", ""), b"one")


def test_a_memory_of_another_mask_begins_anew(tmp_path: Path) -> None:
    family = MaskFamily.draw(LAYERS, {0.6: {"0.weight": 9}}, 3)
    other = MaskFamily.draw(LAYERS, {0.6: {"0.weight": 9}}, 4).top
    model = Model(
        family.top,
        {"0.weight": np.ones(9, np.float32)},
        {"0.bias": np.zeros(3, np.float32)},
    )
    algorithm = coordinator.scaffold()
    assert algorithm.init_state is not None
    model = replace(model, state=algorithm.init_state(model))
    base = pack_values(model.sent(family.top), family.top)
    zeros = {"0.weight": np.full(9, 7, np.float32)}
    foreign = pack_values(
        Values(other.digest, zeros, {"0.bias": np.ones(3, np.float32)}), other
    )
    runner = TaskRunner(
        TASK, Examples(DATA["a"][0].astype(np.float32), labels("a")), "masked"
    )
    order = order_after("2", "1")
    plain = runner.run(order, base, lambda: False)
    for memory in (foreign, b"rubbish", b""):
        assert (
            runner.run(order, base, lambda: False, b"", memory).payload == plain.payload
        )


def test_it_stands_on_frozen_masks_and_corrects_no_power() -> None:
    on = coordinator.flash_scaled()
    algorithm = coordinator.scaffold(on=on)
    assert check_algorithm(algorithm).plan is on.plan
    for other in (coordinator.feddst(), coordinator.fedadam(), coordinator.fedprox()):
        with pytest.raises(SettingsError, match=f"scaffold on {other.name}"):
            coordinator.scaffold(on=other)
    with pytest.raises(SettingsError, match=r"training.power: scaffold corrects"):
        check_algorithm_fits(
            coordinator.scaffold(),
            RunSettings(
                federation="test", task="digits", evaluation=Path(), densities=[0.1],
                rounds=2, training=TrainingSettings(power=1.25),
            ),
        )  # fmt: skip


def test_killed_and_started_again_it_ends_with_the_same_bytes(tmp_path: Path) -> None:
    """Control variates of coordinator and devices included."""
    (tmp_path / "sim.toml").write_text(
        'task = "digits"\ndata = "digits"\ndevices = 5\ncohort = 2\nrounds = 12\n'
        "densities = [0.2]\n"
        'algorithm = "scaffold"\n[training]\nmax_steps = 3\n'
    )

    def command(folder: str) -> list[str]:
        given = ["simulate", folder, "--settings", "sim.toml", "--workers", "1"]
        return [sys.executable, "-m", "coordinator.cli", *given]

    run = tmp_path / "killed"
    killed_in_round(5, 12, run, *command("killed")[3:])
    for folder in ("killed", "whole"):
        subprocess.run(command(folder), cwd=tmp_path, check=True, capture_output=True)
    kinds = ("checkpoints/round-*.safetensors", "memories/*/*.memory")
    for kind in kinds:
        names = {p.relative_to(run) for p in run.glob(kind)}
        assert names
        assert names == {
            p.relative_to(tmp_path / "whole") for p in (tmp_path / "whole").glob(kind)
        }
        for name in names:
            assert (run / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert json.loads((run / "plan.json").read_text())
