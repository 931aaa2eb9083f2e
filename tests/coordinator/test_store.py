from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from coordinator.aggregate import Model
from coordinator.algorithm import Family
from coordinator.store import KEEP, ModelStore, model_name
from edge_sdk.checkpoint import load_checkpoint
from edge_sdk.errors import StateError
from edge_sdk.sparse import LayerShape

LAYERS = (LayerShape("a", (6, 5)), LayerShape("b", (4, 6)))
FAMILY = Family.draw(
    LAYERS, {0.5: {"a": 15, "b": 12}, 0.25: {"a": 8, "b": 6}, 0.2: {"a": 6, "b": 4}}, 1
)


def model() -> Model:
    top = FAMILY.top
    rng = np.random.default_rng(1)
    return Model(
        top,
        {n: rng.normal(size=top.counts[n]).astype(np.float32) for n in top},
        {"bias": np.ones(4, np.float32), "bn.num_batches_tracked": np.array(9)},
    )


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    return ModelStore(tmp_path, "digits", LAYERS)


def test_a_model_comes_back_as_it_was(store: ModelStore) -> None:
    name = store.save(model_name(3), model(), 3)
    found = store.load(name)
    assert found.mask == FAMILY.top
    for part in ("masked", "dense"):
        for key, value in getattr(model(), part).items():
            np.testing.assert_array_equal(getattr(found, part)[key], value, strict=True)
    with pytest.raises(StateError, match="round-00009"):
        store.load(model_name(9))


def test_equal_models_are_equal_bytes(store: ModelStore, tmp_path: Path) -> None:
    """A crash that repeats an aggregation must leave the same file."""
    store.save("one", model(), 3)
    store.save("two", model(), 3)
    one, two = ((tmp_path / "checkpoints" / n).read_bytes() for n in ("one", "two"))
    assert one == two


def test_old_rounds_are_pruned_and_the_start_is_not(
    store: ModelStore, tmp_path: Path
) -> None:
    for no in range(9):
        store.save(model_name(no), model(), no)
        store.prune(no)
    left = sorted(p.name for p in (tmp_path / "checkpoints").iterdir())
    assert left == [model_name(no) for no in (0, *range(9 - KEEP, 9))]


def test_deployed_models_are_nested_and_carry_their_scores(store: ModelStore) -> None:
    written = store.deploy(model(), FAMILY, 7, {0.5: {"accuracy": 0.9}})
    assert set(written) == {0.5, 0.25, 0.2}
    full = load_checkpoint(written[0.5])
    assert full.metrics == {"accuracy": 0.9}
    for density, path in written.items():
        found = load_checkpoint(path)
        assert (found.task, found.round_no) == ("digits", 7)
        assert found.mask == FAMILY.masks[density]
        for name in found.mask:
            kept = found.mask[name]
            np.testing.assert_array_equal(
                found.state()[name][kept], full.state()[name][kept]
            )
