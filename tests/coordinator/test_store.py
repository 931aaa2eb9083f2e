from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from coordinator.algorithms.base import MaskFamily
from coordinator.algorithms.mean import Model
from coordinator.checkpoints.models import KEEP, ModelStore, model_name
from edge_sdk.checkpoint import load_checkpoint
from edge_sdk.checksums import SUMS, lines_with, sums_of
from edge_sdk.errors import CheckpointError, StateError
from edge_sdk.sparse import LayerShape

LAYERS = (LayerShape("a", (6, 5)), LayerShape("b", (4, 6)))
FAMILY = MaskFamily.draw(
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
    left = sorted(p.name for p in (tmp_path / "checkpoints").glob("round-*"))
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


class Memory(dict[str, Any]):
    """A ledger's three verbs."""

    def put(self, key: str, value: Any) -> None:
        self[key] = value

    def beside(self, write: Callable[[], None]) -> None:
        write()


def flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place // 8 % len(content)] ^= 1 << place % 8
    path.write_bytes(content)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(place=st.integers(0, 1 << 20))
def test_any_flipped_bit_of_a_checkpoint_is_found_and_named(
    place: int, tmp_path: Path
) -> None:
    """By the ledger's digest where there is one, else by the list beside the file."""
    memory = Memory()
    own = ModelStore(tmp_path, "digits", LAYERS, memory)
    name = own.save(model_name(3), model(), 3)
    path = tmp_path / "checkpoints" / name
    own.load(name)
    flip(path, place)
    with pytest.raises(StateError, match=f"{name} is not what the ledger says") as told:
        own.load(name)
    assert "Restore it from a copy" in told.value.help
    with pytest.raises(CheckpointError, match=SUMS):
        ModelStore(tmp_path, "digits", LAYERS).load(name)
    own.save(name, model(), 3)
    own.load(name)


def test_a_flipped_bit_of_moved_masks_and_of_a_deployed_model_is_found(
    tmp_path: Path,
) -> None:
    own = ModelStore(tmp_path, "digits", LAYERS, Memory())
    own.save_family(2, MaskFamily(LAYERS, FAMILY.masks, None))
    assert own.load_family(3) is not None
    flip(tmp_path / "checkpoints" / "round-00002.masks", 500)
    with pytest.raises(StateError, match=r"round-00002\.masks is not what the ledger"):
        own.load_family(3)
    (path, *_) = own.deploy(model(), FAMILY, 3, {}).values()
    load_checkpoint(path)
    flip(path, 8 * path.stat().st_size - 3)  # in the last value
    with pytest.raises(CheckpointError, match="is not what was written") as told:
        load_checkpoint(path)
    assert "flash-coordinator resume" in told.value.help
    own.deploy(model(), FAMILY, 3, {})
    load_checkpoint(path)


def test_what_an_older_version_wrote_has_no_digest_and_is_read(tmp_path: Path) -> None:
    name = ModelStore(tmp_path, "digits", LAYERS).save(model_name(3), model(), 3)
    (tmp_path / "checkpoints" / SUMS).unlink()
    assert ModelStore(tmp_path, "digits", LAYERS, Memory()).load(name).mask


def test_while_a_file_is_replaced_both_of_its_digests_are_listed(
    tmp_path: Path,
) -> None:
    own = ModelStore(tmp_path, "digits", LAYERS)
    (path, *others) = own.deploy(model(), FAMILY, 3, {}).values()
    (before,) = sums_of(path)
    listed = path.parent / SUMS
    listed.write_bytes(lines_with(path, "0" * 64, alone=False))
    assert sums_of(path) == {before, "0" * 64}
    load_checkpoint(path)  # killed before the new file came
    own.deploy(model(), FAMILY, 3, {})
    assert sums_of(path) == {before}
    others[0].unlink()
    listed.write_bytes(lines_with(path, before, alone=True))
    assert others[0].name not in listed.read_text()
    done = subprocess.run(
        ["sha256sum", "--check", "--strict", SUMS], cwd=path.parent, check=False
    )
    assert done.returncode == 0
