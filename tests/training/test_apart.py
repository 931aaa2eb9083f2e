"""Parts that stay on a device: trained, remembered, and never in an update."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from msgspec import structs
from numpy.typing import NDArray
from torch import nn
from torch.nn.functional import cross_entropy

from coordinator.settings import RunSettings
from edge_sdk.errors import RemoteProtocolError, TaskError
from edge_sdk.kernels.library import unavailable_reason
from edge_sdk.program.capture import compiled
from edge_sdk.sparse import draw, exact_counts, uniform
from edge_sdk.storage.memory import DeviceMemory
from edge_sdk.tasks.layers import initial_state, layers_of, make_model
from edge_sdk.tasks.parts.freeze import task_model
from edge_sdk.tasks.parts.patterns import matched
from edge_sdk.tasks.parts.run_task import run_task
from edge_sdk.tasks.task import Examples, Task
from edge_sdk.training.memory_limit import EngineName
from edge_sdk.training.rules.apart import own_parts
from edge_sdk.training.runner import TaskRunner
from edge_sdk.training.update import PackedUpdate
from edge_sdk.wire.blob import manifest_of
from edge_sdk.wire.messages import MaskRecipe, TaskOrder, Training
from edge_sdk.wire.parts import Apart, pack_apart, pack_own, unpack_apart, unpack_own
from edge_sdk.wire.rules import Controlled, Frozen, LocalRule, Measured, Regrow, TopK
from edge_sdk.wire.values import (
    Values,
    mask_in,
    pack_values,
    unpack_moved,
    unpack_values,
)


def network() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Flatten(), nn.Linear(8 * 16, 16), nn.ReLU(), nn.Linear(16, 3),
    )  # fmt: skip


def examples(_: Path = Path()) -> Examples:
    rng = np.random.default_rng(1)
    inputs = rng.normal(size=(40, 1, 4, 4)).astype(np.float32)
    return Examples(inputs, rng.integers(0, 3, size=40))


PLAIN = Task(
    name="parts",
    model=network,
    loss=cross_entropy,
    train_data=examples,
    eval_data=examples,
    input_shape=(1, 4, 4),
)
SETTINGS = RunSettings(
    federation="parts",
    task="parts",
    evaluation=Path(),
    densities=[0.5],
    rounds=1,
    personal=["9"],
    frozen=["0", "1.*"],
)
TASK = run_task(PLAIN, SETTINGS)
PERSONAL, FROZEN = set(TASK.personal), set(TASK.frozen)
LAYERS = layers_of(network(), TASK.dense_layers)
PLAINLY = Frozen()
MASK = draw(LAYERS, exact_counts(uniform(LAYERS), LAYERS, 0.5), 5)


def whole() -> Values:
    state = initial_state(TASK, 1)
    masked = {n: state.pop(n)[MASK[n]] for n in MASK}
    return Values(MASK.digest, masked, state)


def blob() -> bytes:
    dense = whole().dense
    return pack_apart(
        Apart({n: dense[n] for n in FROZEN}, {n: dense[n] for n in PERSONAL})
    )


def base() -> Values:
    values = whole()
    apart = PERSONAL | FROZEN
    return replace(
        values, dense={n: a for n, a in values.dense.items() if n not in apart}
    )


def order_of(
    rule: LocalRule = PLAINLY, task: str = "1-a", after: str = ""
) -> TaskOrder:
    parts = blob()
    return TaskOrder(
        id=task,
        round_no=1,
        density=MASK.density,
        base=manifest_of(pack_values(base(), MASK)),
        mask=MaskRecipe(5, dict(MASK.counts), MASK.digest),
        rule=rule,
        training=Training(epochs=2, batch_size=8, learning_rate=0.1, seed=3),
        ttl_ms=1000,
        shard=0,
        codec="fp32",
        moves=isinstance(rule, Regrow | TopK),
        parts=manifest_of(parts),
        after=after,
    )


def run(
    rule: LocalRule = PLAINLY,
    engine: EngineName = "masked",
    memory: bytes = b"",
    program: bytes = b"",
) -> PackedUpdate:
    packed = pack_values(base(), MASK)
    runner = TaskRunner(PLAIN, examples(), engine)
    given: dict[str, Any] = {"memory": memory, "program": program, "parts": blob()}
    return runner.run(order_of(rule), packed, lambda: False, **given)


def change_of(update: PackedUpdate) -> Values:
    if mask_in(update.payload, LAYERS) is None:
        return unpack_values(update.payload, MASK)
    return unpack_moved(update.payload, MASK)[1]


def own_of(update: PackedUpdate) -> dict[str, NDArray[Any]]:
    return unpack_own(update.memory)[0]


RULES: list[LocalRule] = [
    Frozen(), Regrow(share=0.5), TopK(density=0.3), Controlled(), Measured(),
]  # fmt: skip


@pytest.mark.parametrize("rule", RULES, ids=lambda r: type(r).__name__)
def test_no_rule_sends_what_is_personal_or_frozen(rule: LocalRule) -> None:
    update = run(rule)
    sent = {n for n in change_of(update).dense if not n.startswith(".")}
    assert sent == set(base().dense)
    own, first = own_of(update), whole().dense
    assert set(own) == PERSONAL
    assert all((own[n] != first[n]).any() for n in PERSONAL)
    for values in own.values():  # not as they are, not as a change
        assert values.tobytes()[:8] not in update.payload


@pytest.mark.parametrize("engine", ["masked", "sparse", "program"])
def test_every_engine_trains_the_same_and_leaves_a_frozen_norm_in_evaluation_mode(
    engine: EngineName,
) -> None:
    if engine != "masked" and unavailable_reason():
        pytest.skip("no kernels")
    program = b""
    if engine == "program":
        batch = (
            torch.from_numpy(examples().inputs[:8]),
            torch.from_numpy(examples().targets[:8]),
        )
        program = compiled(make_model(TASK, 0), cross_entropy, *batch).file
        assert program
    one, other = run(engine=engine, program=program), reference()
    change, own = change_of(one), own_of(one)
    for name, array in {**change.masked, **change.dense, **own}.items():
        expected = other[name]
        if name in MASK.layers:
            expected = expected[MASK[name]]
        start = {**whole().masked, **whole().dense}[name]
        after = array if name in own else start + array
        np.testing.assert_allclose(after, expected, rtol=1e-3, atol=1e-5)


def reference() -> dict[str, NDArray[Any]]:
    """Plain torch: the frozen part in evaluation mode and without gradients."""
    model = network()
    full: dict[str, NDArray[Any]] = dict(whole().dense)
    masks = {}
    for name in MASK:
        full[name] = np.zeros(MASK[name].shape, np.float32)
        full[name][MASK[name]] = whole().masked[name]
        masks[name] = torch.from_numpy(np.array(MASK[name]))
    model.load_state_dict({n: torch.from_numpy(np.array(a)) for n, a in full.items()})
    model.train()
    model[:2].eval().requires_grad_(False)
    trained = [p for p in model.parameters() if p.requires_grad]
    rows = examples()
    for epoch in range(2):
        rng = np.random.Generator(np.random.Philox(key=[3, epoch]))
        order = rng.permutation(len(rows))
        for start in range(0, len(rows), 8):
            some = order[start : start + 8]
            loss = cross_entropy(
                model(torch.from_numpy(rows.inputs[some])),
                torch.from_numpy(rows.targets[some]),
            )
            model.zero_grad()
            loss.backward()
            with torch.no_grad():
                for parameter in trained:
                    parameter.sub_(0.1 * parameter.grad)
                for name, mask in masks.items():
                    model.get_parameter(name).mul_(mask)
    return {n: t.numpy() for n, t in model.state_dict().items()}


def test_personal_weights_go_on_from_the_task_that_counted(tmp_path: Path) -> None:
    memory = DeviceMemory(tmp_path)
    first = run()
    memory.keep(order_of(task="1-a"), first.memory)
    second = run(memory=memory.read(order_of(task="2-a", after="1-a")))
    memory.keep(order_of(task="2-a", after="1-a"), second.memory)
    # The second one did not count: the third goes on from the first again.
    third = run(memory=memory.read(order_of(task="3-a", after="1-a")))
    assert third.memory == second.memory != first.memory
    assert third.payload == second.payload != first.payload
    assert memory.read(order_of(task="4-a")) == b""


def test_a_memory_that_is_damaged_or_of_another_head_begins_anew() -> None:
    fresh = run()
    first = {n: whole().dense[n] for n in PERSONAL}
    other = {n: a[..., :1] for n, a in first.items()}
    for memory in (b"?", pack_own(other, b""), pack_own({}, b"")):
        assert run(memory=memory).memory == fresh.memory


def test_a_rule_with_a_memory_keeps_both() -> None:
    once = run(Controlled())
    personal, variates = unpack_own(once.memory)
    assert set(personal) == PERSONAL
    assert variates
    own = own_parts(blob(), once.memory)
    assert own.memory == variates


def test_a_blob_that_names_an_entry_twice_is_refused() -> None:
    array = np.zeros(2, np.float32)
    both = pack_apart(Apart({"a": array}, {"a": array}))
    with pytest.raises(RemoteProtocolError, match="a is frozen and personal at once"):
        unpack_apart(both)


def test_a_partly_frozen_module_still_trains_and_a_frozen_one_stays() -> None:
    task = replace(PLAIN, frozen=("0.weight", "1"))
    model = task_model(task).train()
    assert model[0].training
    assert not model[1].training
    assert model[4].training
    trains = {n for n, p in model.named_parameters() if p.requires_grad}
    assert "0.bias" in trains
    assert trains.isdisjoint({"0.weight", "1.weight", "1.bias"})


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"personal": ["haed"]}, "personal has 'haed', which matches nothing"),
        ({"frozen": ["0", "nothing.*"]}, "frozen has 'nothing.\\*'"),
        ({"personal": ["*"], "frozen": []}, "personal matches every entry"),
        ({"personal": [], "frozen": ["*"]}, "frozen matches every entry"),
        ({"personal": ["0"]}, "0.bias is personal and frozen at once"),
        ({"personal": ["*.weight"], "frozen": []}, "every weight that a mask"),
    ],
)
def test_patterns_that_cannot_be_meant_are_named(
    changes: dict[str, Any], told: str
) -> None:
    with pytest.raises(TaskError, match=told):
        run_task(PLAIN, structs.replace(SETTINGS, **changes))


def save(path: Path, state: dict[str, Any]) -> Path:
    if path.suffix == ".safetensors":
        from safetensors.torch import save_file

        save_file(state, path)
    else:
        torch.save(state, path)
    return path


@pytest.mark.parametrize("kind", ["a.safetensors", "a.pt", "nested.pth"])
def test_a_run_begins_at_the_state_dict_of_a_file(tmp_path: Path, kind: str) -> None:
    state = {n: t + 1 for n, t in network().state_dict().items() if n[0] != "9"}
    saved: dict[str, Any] = {"state_dict": state} if "nested" in kind else state
    path = save(tmp_path / kind, saved)
    task = run_task(PLAIN, structs.replace(SETTINGS, start=path))
    found = initial_state(task, 1)
    for name, array in found.items():
        own = state[name].numpy() if name in state else initial_state(PLAIN, 1)[name]
        np.testing.assert_array_equal(array, own)


def dict_of(**changes: Any) -> dict[str, Any]:
    state = {**network().state_dict(), **changes}
    return {n: t for n, t in state.items() if t is not None}


@pytest.mark.parametrize(
    ("state", "told"),
    [
        ({"fc.weight": torch.zeros(2)}, "has fc.weight, which the model does not have"),
        ({}, "does not have 0.weight, 0.bias"),
        (dict_of(**{"9.weight": torch.zeros(4, 16)}), r"9.weight has shape \(4, 16\)"),
        (dict_of(**{"9.bias": torch.full((3,), torch.nan)}), "9.bias .* not finite"),
        (dict_of(**{"9.bias": torch.zeros(3, dtype=torch.int64)}), "9.bias is int64"),
        (dict_of(**{"0.bias": None}), "does not have 0.bias, which nobody trains"),
    ],
    ids=["surplus", "empty", "shape", "nan", "dtype", "frozen"],
)
def test_a_start_file_that_does_not_fit_is_named(
    tmp_path: Path, state: dict[str, Any], told: str
) -> None:
    path = save(tmp_path / "start.pt", state)
    with pytest.raises(TaskError, match=told):
        run_task(PLAIN, structs.replace(SETTINGS, start=path))


@pytest.mark.parametrize(
    ("saved", "told"),
    [
        (network(), "holds objects, not only a state dict"),
        ({"model": network().state_dict(), "epoch": 3}, "but under 'model'"),
        ([torch.zeros(2)], "holds no state dict"),
        ({"0.weight": "text"}, "holds no state dict"),
    ],
    ids=["module", "within", "list", "text"],
)
def test_a_start_file_of_another_kind_says_so_in_one_line(
    tmp_path: Path, saved: Any, told: str
) -> None:
    """What torch says is many lines, and has people load what may run code."""
    path = tmp_path / "start.pt"
    torch.save(saved, path)
    task = replace(PLAIN, start=str(path))  # a task's author may write a str
    with pytest.raises(TaskError, match=told) as raised:
        initial_state(task, 1)
    assert "\n" not in f"{raised.value}{raised.value.help}"


@pytest.mark.parametrize("given", [3, [3], [None], [nn.Linear(1, 1)]])
def test_patterns_that_are_no_text_are_named(given: Any) -> None:
    with pytest.raises(TaskError, match=r"personal has a .* no pattern of names"):
        matched(replace(PLAIN, personal=given), "personal", ["0.weight", "0.bias"])


@pytest.mark.parametrize("content", [None, b"", b"text"])
def test_a_start_file_that_is_none_is_named(
    tmp_path: Path, content: bytes | None
) -> None:
    path = tmp_path / "start.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(TaskError, match=r"start\.safetensors cannot be read"):
        run_task(PLAIN, structs.replace(SETTINGS, start=path))
