"""Entries of a state that are neither float32 nor int64 are carried, or refused."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from coordinator.algorithms.dense.entries import as_entry, within
from coordinator.algorithms.mean import Contribution, Model, coverage_mean
from coordinator.algorithms.trimmed_mean import trimmed_mean
from coordinator.rounds.validation import Refusal, check_payload
from edge_sdk.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from edge_sdk.errors import TaskError
from edge_sdk.sparse import Mask, draw, exact_counts, uniform
from edge_sdk.tasks.layers import initial_state, layers_of
from edge_sdk.tasks.model_state import check_model
from edge_sdk.tasks.task import Examples, Task
from edge_sdk.training.masked import masked_model
from edge_sdk.training.runner import TaskRunner
from edge_sdk.wire.blob import manifest_of
from edge_sdk.wire.messages import MaskRecipe, TaskOrder, Training
from edge_sdk.wire.rules import Frozen
from edge_sdk.wire.values import Values, largest_payload, pack_values, unpack_values

BIG = (1 << 62) + 1  # no float64 is this


def mask_of(*shape: int) -> torch.Tensor:
    return torch.ones(shape).tril().bool()


CARRIED = {
    "bool": mask_of(5, 5),
    "uint8": torch.tensor([0, 7, 255], dtype=torch.uint8),
    "uint16": torch.tensor([0, 65535], dtype=torch.uint16),
    "uint32": torch.tensor([0, (1 << 32) - 1], dtype=torch.uint32),
    "uint64": torch.tensor([0, BIG], dtype=torch.uint64),
    "int8": torch.tensor([-128, 127], dtype=torch.int8),
    "int16": torch.tensor([-32768, 32767], dtype=torch.int16),
    "int32": torch.tensor([-(1 << 31), (1 << 31) - 1], dtype=torch.int32),
    "int64": torch.tensor([-BIG, BIG]),
    "float16": torch.tensor([0.1, -6.0, 65504.0], dtype=torch.float16),
    "float64": torch.tensor([0.5, -3.0, 2.0**100], dtype=torch.float64),
    "empty bool": torch.zeros(0, 3, dtype=torch.bool),
    "empty float": torch.zeros(3, 0),
    "0-d bool": torch.tensor(True),
    "0-d uint8": torch.tensor(200, dtype=torch.uint8),
    "0-d float": torch.tensor(2.5),
}
REFUSED = {
    "complex64": (torch.ones(2, dtype=torch.complex64), "complex64"),
    "bfloat16": (torch.ones(2, dtype=torch.bfloat16), "bfloat16"),
    "float64 inexact": (torch.tensor([0.1], dtype=torch.float64), "not carried exact"),
    "float64 large": (torch.tensor([1e300], dtype=torch.float64), "not finite"),
    "-inf": (torch.full((2, 2), float("-inf")).triu(1), "not finite"),
    "nan": (torch.tensor(float("nan")), "not finite"),
    "uint64 top": (torch.tensor([2**64 - 1], dtype=torch.uint64), "above 2"),
    "sparse": (torch.eye(3).to_sparse(), "sparse"),
    "meta": (torch.zeros(2, device="meta"), "no values"),
}


class Net(nn.Module):
    """Two linear layers and a buffer."""

    def __init__(self, buffer: torch.Tensor, *, persistent: bool = True) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 8), nn.Linear(8, 3)
        self.register_buffer("odd", buffer.clone(), persistent=persistent)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.b(torch.relu(self.a(x)))
        return found


class Flag(Net):
    """As a code book that notes that it has been filled, and counts its batches."""

    def __init__(self) -> None:
        super().__init__(torch.tensor(False))
        self.register_buffer("seen", torch.tensor(250, dtype=torch.uint8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training:
            self.odd.fill_(True)
            self.seen.add_(1)
        return super().forward(x)


def examples(_: Path = Path()) -> Examples:
    rng = np.random.default_rng(1)
    inputs = rng.normal(size=(16, 6)).astype(np.float32)
    return Examples(inputs, rng.integers(0, 3, size=16))


def task_of(model: Any) -> Task:
    return Task(name="odd", model=model, loss=cross_entropy, train_data=examples,
                eval_data=examples, input_shape=(6,))  # fmt: skip


def trained(
    task: Task, codec: str = "fp32"
) -> tuple[Model, Mask, TaskOrder, bytes, dict[str, Any]]:
    """One device's update, from a base that travelled."""
    layers = layers_of(task.model())
    mask = draw(layers, exact_counts(uniform(layers), layers, 0.5), 5)
    state = initial_state(task, 1)
    dense = {n: a for n, a in state.items() if n not in mask}
    model = Model(mask, {n: state[n][mask[n]] for n in mask}, dense)
    base = pack_values(model.on(mask), mask, codec=codec)
    order = TaskOrder(
        id="1-a",
        round_no=1,
        density=0.5,
        base=manifest_of(base),
        mask=MaskRecipe(5, dict(mask.counts), mask.digest),
        rule=Frozen(),
        training=Training(epochs=1, batch_size=8, learning_rate=0.1, seed=3),
        ttl_ms=1000,
        shard=0,
        codec=codec,
    )
    made = TaskRunner(task, examples(), "masked").run(order, base, lambda: False)
    assert len(made.payload) <= largest_payload(codec, mask.counts, dense) + (1 << 16)
    return model, mask, order, made.payload, dense


def same(found: Any, start: Any) -> bool:
    """Equal in dtype, shape and every bit."""
    return (
        found.dtype == start.dtype
        and found.shape == start.shape
        and found.tobytes() == start.tobytes()
    )


@pytest.mark.parametrize("codec", ["fp32", "int8"])
@pytest.mark.parametrize("name", CARRIED)
def test_an_entry_comes_back_from_a_round_bit_for_bit(
    name: str, codec: str, tmp_path: Path
) -> None:
    task = task_of(lambda: Net(CARRIED[name]))
    check_model(task.model())
    model, mask, order, payload, dense = trained(task, codec)
    change = check_payload(payload, order, mask, dense, examples=16)
    assert not isinstance(change, Refusal), change
    assert isinstance(change, Values)
    given = [Contribution(d, mask, 3, change) for d in "abc"]
    start = dense["odd"]
    for after, _ in (coverage_mean(model, given), trimmed_mean(model, given, trim=0.2)):
        if codec == "fp32" or start.dtype != np.float32:
            assert same(after.dense["odd"], start)
        kept = Checkpoint(
            "odd", 1, layers_of(task.model()), mask, after.masked, after.dense, {}
        )
        save_checkpoint(tmp_path / "one", kept)
        read = load_checkpoint(tmp_path / "one")
        assert same(read.dense["odd"], after.dense["odd"])
        module = task.model()
        state = {n: torch.from_numpy(np.array(a)) for n, a in read.state().items()}
        module.load_state_dict(state, strict=True)
        ready = masked_model(task.model(), mask)
        ready.load(after.masked, after.dense)
        assert same(ready.dense()["odd"], after.dense["odd"])


@pytest.mark.parametrize("name", REFUSED)
def test_an_entry_that_cannot_travel_is_refused_at_the_door_by_name(name: str) -> None:
    buffer, why = REFUSED[name]
    with pytest.raises(
        TaskError, match=rf"entry odd of Net cannot be sent: .*{why}"
    ) as e:
        TaskRunner(task_of(lambda: Net(buffer)), examples(), "masked")
    assert e.value.help
    check_model(Net(buffer, persistent=False)) if name != "sparse" else None


def test_the_remedy_for_a_constant_is_told_with_its_own_name() -> None:
    class Deep(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = Net(torch.ones(2, dtype=torch.complex64))

    with pytest.raises(TaskError, match=r"entry inner\.odd of Deep") as why:
        check_model(Deep())
    assert "register_buffer('odd', ..., persistent=False)" in why.value.help


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_parameters_are_float32_or_the_model_is_refused(dtype: torch.dtype) -> None:
    model = Net(torch.zeros(1)).to(dtype)
    with pytest.raises(TaskError, match=r"parameter a\.weight of Net") as why:
        check_model(model)
    assert ".float()" in why.value.help


def test_state_that_is_no_tensor_is_refused() -> None:
    class Extra(Net):
        def get_extra_state(self) -> dict[str, int]:
            return {"version": 1}

        def set_extra_state(self, state: object) -> None:
            pass

    with pytest.raises(TaskError, match=r"entry _extra_state of Extra .*it is a dict"):
        check_model(Extra(torch.zeros(1)))


def test_a_flag_and_a_small_counter_that_training_moves_travel_too() -> None:
    model, mask, order, payload, dense = trained(task_of(Flag))
    change = check_payload(payload, order, mask, dense, examples=16)
    assert isinstance(change, Values)
    given = [Contribution(d, mask, 3, change) for d in "abc"]
    for after, _ in (coverage_mean(model, given), trimmed_mean(model, given, trim=0.2)):
        assert after.dense["odd"].dtype == np.bool_
        assert bool(after.dense["odd"])
        assert after.dense["seen"].dtype == np.uint8
        assert int(after.dense["seen"]) == 252


def test_one_device_of_three_cannot_turn_a_flag_or_wrap_a_counter() -> None:
    model, mask, _, payload, _ = trained(task_of(Flag))
    still = unpack_values(payload, mask)
    quiet = {n: np.zeros_like(a) for n, a in still.dense.items()}
    loud = quiet | {"odd": np.array(1 << 60), "seen": np.array(1 << 60)}
    given = [
        Contribution(d, mask, 3, Values(mask.digest, still.masked, sent))
        for d, sent in (("a", quiet), ("b", quiet), ("c", loud))
    ]
    after, _ = coverage_mean(model, given)
    assert not bool(after.dense["odd"])
    assert 250 <= int(after.dense["seen"]) <= 252


def test_a_float_in_the_place_of_an_integer_is_refused() -> None:
    _, mask, order, payload, dense = trained(task_of(Flag))
    change = unpack_values(payload, mask)
    wrong = dict(change.dense) | {"odd": np.array(0.5, np.float32)}
    sent = pack_values(Values(mask.digest, change.masked, wrong), mask)
    assert isinstance(check_payload(sent, order, mask, dense, examples=16), Refusal)


def test_what_is_beyond_a_dtype_ends_at_its_limits() -> None:
    for dtype in ("int8", "uint8", "int16", "uint32", "int64", "uint64"):
        base = np.zeros(2, dtype)
        found = as_entry(np.array([-1e30, 1e30]), base, moved=True)
        limits = np.iinfo(dtype)
        assert int(found[0]) == limits.min
        assert limits.max - 2048 < int(found[1]) <= limits.max
    floats = np.array([1.5, -2.5], np.float32)
    assert within(np.array([9.0, 9.0]), floats).tolist() == [9.0, 9.0]


def test_bytes_of_entries_that_travelled_before_are_as_they_were() -> None:
    """An older device reads what a newer coordinator sends it of an older model."""
    mask = Mask({"a.weight": np.ones((1, 2), np.bool_)})
    values = Values(mask.digest, {"a.weight": np.zeros(2, np.float32)},
                    {"n": np.array(7, np.int32)})  # fmt: skip
    assert struct.pack("<q", 7) in pack_values(values, mask)
    assert unpack_values(pack_values(values, mask), mask).dense["n"].dtype == np.int64
