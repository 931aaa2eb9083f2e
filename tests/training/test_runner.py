"""Orders of the task `digits` carried out on synthetic examples."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from edge_sdk.errors import EdgeError, MaskMismatchError, RemoteProtocolError
from edge_sdk.sparse import Mask, draw, exact_counts, uniform
from edge_sdk.tasks.layers import initial_state, layers_of
from edge_sdk.tasks.task import Examples, load_task
from edge_sdk.training.checkpoint import Progress
from edge_sdk.training.local import Stopped
from edge_sdk.training.runner import TaskRunner
from edge_sdk.training.update import PackedUpdate
from edge_sdk.wire.blob import CHUNK_SIZE, LARGEST_CHUNK, manifest_of
from edge_sdk.wire.evidence import unpack_evidence
from edge_sdk.wire.messages import MaskRecipe, TaskOrder, Training
from edge_sdk.wire.recipe import mask_of
from edge_sdk.wire.rules import Frozen, LocalRule, Regrow, Rewire, WarmUp
from edge_sdk.wire.structure import encode_structure
from edge_sdk.wire.values import Values, pack_values, unpack_values

TASK = load_task("digits")
LAYERS = layers_of(TASK.model(), TASK.dense_layers)
COUNTS = exact_counts(uniform(LAYERS), LAYERS, 0.3)
MASK = draw(LAYERS, COUNTS, 5)


def examples() -> Examples:
    rng = np.random.default_rng(2)
    inputs = rng.integers(0, 17, size=(40, 1, 8, 8)).astype(np.uint8)
    return Examples(inputs, rng.integers(0, 10, size=40))


def base_values(mask: Mask = MASK) -> Values:
    state = initial_state(TASK, 1)
    masked = {n: state.pop(n)[mask[n]] for n in mask}
    return Values(mask.digest, masked, state)


BASE = pack_values(base_values(), MASK)


def order(**changes: Any) -> TaskOrder:
    found = TaskOrder(
        id="1-a",
        round_no=1,
        density=0.3,
        base=manifest_of(BASE),
        mask=MaskRecipe(5, COUNTS, MASK.digest),
        rule=Frozen(),
        training=Training(epochs=1, batch_size=8, learning_rate=0.05, seed=9),
        ttl_ms=1000,
        shard=0,
        codec="fp32",
    )
    return msgspec.structs.replace(found, **changes)


def run(runner: TaskRunner | None = None, **changes: Any) -> PackedUpdate:
    ready = runner or TaskRunner(TASK, examples(), "masked")
    return ready.run(order(**changes), BASE, lambda: False)


def test_an_update_is_the_change_on_the_mask() -> None:
    packed = run()
    change = unpack_values(packed.payload, MASK)
    assert packed.offer.manifest == manifest_of(packed.payload)
    assert packed.offer.mask_digest == MASK.digest
    assert packed.offer.examples == 40
    assert packed.offer.metrics["steps"] == 5
    assert len(packed.payload) == len(BASE)
    parts = [*change.masked.values(), *change.dense.values()]
    norm = np.sqrt(sum((a.astype(float) ** 2).sum() for a in parts))
    assert packed.offer.norm == pytest.approx(norm, rel=1e-6)
    assert norm > 0


@pytest.mark.parametrize("size", [CHUNK_SIZE, 130_048, LARGEST_CHUNK])
def test_an_update_is_cut_as_its_order_says(size: int) -> None:
    packed = run(chunk_size=size)
    assert packed.offer.manifest == manifest_of(packed.payload, size)


def test_equal_orders_give_equal_bytes_also_on_a_used_runner() -> None:
    """A device that restarts in the middle of a task sends the same update."""
    used = TaskRunner(TASK, examples(), "masked")
    first = run(used)
    other = run(used, training=Training(epochs=1, batch_size=4, learning_rate=0.1))
    assert other.payload != first.payload
    assert run(used).payload == first.payload == run().payload


@pytest.mark.parametrize("died_at", [2, 7, 12])
@pytest.mark.parametrize("rule", [Rewire(0.5), Regrow(0.3), WarmUp()], ids=repr)
def test_a_task_that_moves_its_mask_goes_on_after_a_reboot_and_sends_the_same(
    tmp_path: Path, rule: LocalRule, died_at: int
) -> None:
    """Its checkpoint holds the mask as it is, and what draws its moves."""
    plan = Training(epochs=3, batch_size=8, learning_rate=0.05, momentum=0.9, seed=9)
    place = Progress(tmp_path, every_s=0.0)

    def rebooted(rule: LocalRule) -> tuple[PackedUpdate, int]:
        """What is sent after a death at a step, and how many more steps it took."""
        asked = order(rule=rule, training=plan, moves=not isinstance(rule, Frozen))
        left, more = iter(range(died_at)), 0
        first, second = (
            TaskRunner(TASK, examples(), "masked", progress=place) for _ in range(2)
        )
        with pytest.raises(Stopped):
            first.run(asked, BASE, lambda: next(left, None) is None)
        assert list(tmp_path.iterdir()) == [place.path]

        def step() -> bool:
            nonlocal more
            more += 1
            return False

        return second.run(asked, BASE, step), more

    for other in (rule, Frozen()):  # the checkpoint of the other is thrown away
        sent, more = rebooted(other)
        whole = run(rule=other, training=plan, moves=not isinstance(other, Frozen))
        assert sent.payload == whole.payload
        assert more + died_at == sent.offer.metrics["steps"]


def test_a_warm_up_returns_counts_and_nothing_else() -> None:
    packed = run(rule=WarmUp(), training=Training(3, 8, 0.05))
    sizes = {s.name: s.numel for s in LAYERS}
    evidence = unpack_evidence(packed.payload, sizes)
    assert sum(evidence.counts.values()) == MASK.nnz
    assert len(packed.payload) < 200


def test_a_mask_drawn_otherwise_is_refused_with_a_remedy() -> None:
    with pytest.raises(MaskMismatchError, match="the mask drawn here") as caught:
        mask_of(MaskRecipe(6, COUNTS, MASK.digest), LAYERS)
    assert "same task file" in caught.value.help
    assert mask_of(MaskRecipe(5, COUNTS, MASK.digest), LAYERS) == MASK


@pytest.mark.parametrize(
    "changes",
    [
        {"mask": MaskRecipe(5, {}, MASK.digest)},
        {"mask": MaskRecipe(5, dict.fromkeys(COUNTS, 1 << 40), MASK.digest)},
        {"codec": "int9"},
    ],
    ids=["no counts", "huge counts", "codec"],
)
def test_an_order_that_cannot_be_is_an_error_that_can_be_reported(
    changes: dict[str, Any],
) -> None:
    with pytest.raises(EdgeError):
        run(**changes)


def test_a_base_that_does_not_fit_is_refused() -> None:
    runner = TaskRunner(TASK, examples(), "masked")
    for base in (b"", BASE[:-1]):
        with pytest.raises(RemoteProtocolError):
            runner.run(order(), base, lambda: False)
    lacking = base_values()
    dense = dict(lacking.dense)
    dense.popitem()
    short = pack_values(Values(MASK.digest, lacking.masked, dense), MASK)
    with pytest.raises(EdgeError, match="entries differ"):
        runner.run(order(), short, lambda: False)
    assert run(runner).payload == run().payload


def test_it_stops_when_told() -> None:
    with pytest.raises(Stopped):
        TaskRunner(TASK, examples(), "masked").run(order(), BASE, lambda: True)


def test_a_mask_that_no_seed_gives_comes_by_its_structure() -> None:
    rng = np.random.default_rng(8)
    mask = Mask({s.name: rng.random(s.shape) < 0.3 for s in LAYERS})
    base = pack_values(base_values(mask), mask)
    structure = encode_structure(mask)
    recipe = MaskRecipe(0, dict(mask.counts), mask.digest, manifest_of(structure))
    asked = order(mask=recipe, base=manifest_of(base))
    runner = TaskRunner(TASK, examples(), "masked")
    packed = runner.run(asked, base, lambda: False, structure)
    assert packed.offer.mask_digest == mask.digest
    change = unpack_values(packed.payload, mask)
    assert any(values.any() for values in change.masked.values())
    for damaged in (structure[:-1], encode_structure(MASK), b""):
        with pytest.raises(RemoteProtocolError):
            TaskRunner(TASK, examples(), "masked").run(
                asked, base, lambda: False, damaged
            )
