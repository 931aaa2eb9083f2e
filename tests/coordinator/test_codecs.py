"""Codecs between the settings, the gate and a device's runner."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from coordinator.algorithms.mean import Contribution, Model, coverage_mean
from coordinator.ledger import open_ledger
from coordinator.rounds.validation import Refusal, check_offer, check_payload
from coordinator.server.devices.device_registry import DeviceRegistry
from coordinator.server.devices.run_program import RunProgram
from coordinator.settings import CodecSettings, RunSettings, load_run
from device_profiles import load_board
from edge_sdk.errors import SettingsError
from edge_sdk.sparse import draw, exact_counts, uniform
from edge_sdk.tasks.cost import workload_of
from edge_sdk.tasks.layers import initial_state, layers_of
from edge_sdk.tasks.task import Examples, load_task
from edge_sdk.training.runner import TaskRunner
from edge_sdk.transport.limits import NO_LIMIT
from edge_sdk.wire.blob import AROUND, CHUNK_SIZE, LARGEST_CHUNK, manifest_of
from edge_sdk.wire.messages import Hello, MaskRecipe, Offer, TaskOrder, Training
from edge_sdk.wire.quantize import NAMES
from edge_sdk.wire.rules import Frozen
from edge_sdk.wire.values import CODECS, Values, pack_values

TASK = load_task("digits")
LAYERS = layers_of(TASK.model(), TASK.dense_layers)
COUNTS = exact_counts(uniform(LAYERS), LAYERS, 0.3)
MASK = draw(LAYERS, COUNTS, 5)
RUN = """federation = "test"
task = "digits"
evaluation = "eval"
densities = [0.3]
rounds = 2
"""


def a_model() -> Model:
    state: dict[str, Any] = initial_state(TASK, 1)
    masked = {n: state.pop(n)[MASK[n]] for n in MASK}
    return Model(MASK, masked, state)


def examples(seed: int) -> Examples:
    rng = np.random.default_rng(seed)
    inputs = rng.integers(0, 17, size=(40, 1, 8, 8)).astype(np.uint8)
    return Examples(inputs, rng.integers(0, 10, size=40))


def an_order(base: bytes, codec: str, **changes: Any) -> TaskOrder:
    order = TaskOrder(
        id="1-a",
        round_no=1,
        density=0.3,
        base=manifest_of(base),
        mask=MaskRecipe(5, COUNTS, MASK.digest),
        rule=Frozen(),
        training=Training(epochs=1, batch_size=8, learning_rate=0.05, seed=9),
        ttl_ms=1000,
        shard=0,
        codec=codec,
    )
    return msgspec.structs.replace(order, **changes)


@pytest.mark.parametrize("up", CODECS)
@pytest.mark.parametrize("down", ["fp32", "fp16", "int8"])
def test_an_update_in_every_codec_passes_the_gate_and_adds_up_the_same_twice(
    up: str, down: str
) -> None:
    model = a_model()
    base = pack_values(model.on(MASK), MASK, codec=down)
    order = an_order(base, up)
    runner = TaskRunner(TASK, examples(2), "masked")
    packed = runner.run(order, base, lambda: False)
    again = TaskRunner(TASK, examples(2), "masked").run(order, base, lambda: False)
    assert packed.payload == again.payload  # a restarted device rounds the same way
    offer = packed.offer
    assert check_offer(offer, order, max_examples=40, dense=model.dense) is None
    found = [
        check_payload(packed.payload, order, MASK, model.dense, examples=8)
        for _ in range(2)
    ]
    assert isinstance(found[0], Values)
    norm = np.sqrt(sum((a.astype(float) ** 2).sum() for a in _floats(found[0])))
    assert offer.norm == pytest.approx(norm, rel=1e-6)  # of what was sent
    sums = [
        coverage_mean(model, [Contribution("pi-1", MASK, 40, change)])[0]
        for change in found
        if isinstance(change, Values)
    ]
    for name, values in sums[0].masked.items():
        assert values.tobytes() == sums[1].masked[name].tobytes()


def _floats(values: Values) -> list[Any]:
    both: list[Mapping[str, Any]] = [values.masked, values.dense]
    return [a for part in both for a in part.values() if a.dtype.kind == "f"]


@pytest.mark.parametrize("down", NAMES)
def test_updates_of_nothing_leave_the_model_as_it_is(down: str) -> None:
    """However coarse the base on the way down: rounding never reaches the model."""
    model = a_model()
    start = model
    zero = Values(
        MASK.digest,
        {n: np.zeros_like(v) for n, v in model.masked.items()},
        {n: np.zeros_like(v) for n, v in model.dense.items()},
    )
    for _ in range(20):
        pack_values(model.on(MASK), MASK, codec=down)
        model, _ = coverage_mean(model, [Contribution("pi-1", MASK, 1, zero)])
    for name, values in model.masked.items():
        np.testing.assert_array_equal(values, start.masked[name])


def test_the_gate_refuses_another_codec_and_what_is_too_large_for_it(
    offer: Callable[..., Offer],
) -> None:
    model = a_model()
    order = an_order(b"base", "int8")
    change = pack_values(model.on(MASK), MASK, codec="fp16")
    found = check_payload(change, order, MASK, model.dense, examples=8)
    assert isinstance(found, Refusal)
    assert "int8 was agreed" in found.why
    most = MASK.nnz + 2 * len(MASK) + 2 * (MASK.nnz // 256 + len(MASK))
    most += sum(a.nbytes for a in model.dense.values()) + 64 * 1024
    for size, fits in ((most - 64, True), (most + 1, False)):
        offered = msgspec.structs.replace(
            offer(),
            mask_digest=MASK.digest,
            codec="int8",
            manifest=manifest_of(bytes(size), 1 << 16),
        )
        refused = check_offer(offered, order, max_examples=8, dense=model.dense)
        assert (refused is None) == fits


def test_the_settings_name_the_codecs(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text(RUN)
    assert load_run(path).codec == CodecSettings(up="int8", down="fp16", zstd=True)
    path.write_text(RUN + '[codec]\nup = "int4"\nzstd = false\n')
    assert load_run(path).codec == CodecSettings(up="int4", down="fp16", zstd=False)
    path.write_text(RUN + '[codec]\nup = "int3"\n')
    with pytest.raises(SettingsError, match="int3"):
        load_run(path)


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[DeviceRegistry]:
    """Devices of a run of digits; nobody is there yet."""
    settings = RunSettings(
        federation="test",
        task="digits",
        evaluation=Path("eval"),
        densities=[0.3],
        rounds=2,
    )
    workload = workload_of(TASK, examples=100, epochs=1, batch=32)
    ledger = open_ledger(tmp_path)
    none = RunProgram(load_task("digits"), Examples([[0]], [0]), ledger)
    fleet = DeviceRegistry(settings, workload, ledger, lambda: 0.0, none)
    yield fleet
    ledger.close()


def test_each_device_gets_the_best_codec_that_both_know(fleet: DeviceRegistry) -> None:
    profile = msgspec.to_builtins(load_board("raspberry_pi_4b_4gb"))
    known = {"old": ["fp32"], "plain": list(NAMES), "new": list(CODECS)}
    for device, codecs in known.items():
        hello = Hello("idle", None, "0", "digits", 100, profile, codecs, [], 9)
        fleet.hello(device, hello)
    assert fleet.densities.codecs("old") == ("fp32", "fp32")
    assert fleet.densities.codecs("plain") == ("int8", "fp16")
    packed = "+zstd" if "int8+zstd" in CODECS else ""
    assert fleet.densities.codecs("new") == ("int8" + packed, "fp16" + packed)
    assert fleet.densities.codecs("stranger") == ("fp32", "fp32")


@pytest.mark.parametrize(
    ("packet", "uplink_mbit_s", "size"),
    [
        (NO_LIMIT, 900.0, CHUNK_SIZE),  # the broker does not say
        (20_000, 900.0, CHUNK_SIZE),  # the device makes it smaller
        (96 * 1024, 900.0, 95 * 1024),
        (128 * 1024, 900.0, 127 * 1024),
        (282_624, 900.0, LARGEST_CHUNK),
        (5 << 20, 900.0, LARGEST_CHUNK),
        (5 << 20, 0.53, LARGEST_CHUNK),  # in four seconds
        (5 << 20, 0.52, CHUNK_SIZE),
        (5 << 20, 0.01, CHUNK_SIZE),
    ],
)
def test_chunks_of_an_update_are_as_large_as_broker_and_uplink_take(
    packet: int, uplink_mbit_s: float, size: int, fleet: DeviceRegistry
) -> None:
    profile = msgspec.to_builtins(load_board("raspberry_pi_4b_4gb"))
    profile["uplink_mbit_s"] = uplink_mbit_s
    hello = Hello("idle", None, "0", "digits", 100, profile, ["fp32"], [], 9)
    fleet.hello("pi-1", hello)
    assert fleet.densities.chunk_size("pi-1", packet) == size
    assert size <= max(packet - AROUND, CHUNK_SIZE)
