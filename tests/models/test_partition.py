"""Partitions: nobody gets what another has, and folders are whole or refused."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from numpy.typing import NDArray

from edge_sdk.datasets.partition import by_group, lda, load_partition, save_partition
from edge_sdk.errors import DataError
from edge_sdk.tasks import Examples

targets = st.lists(st.integers(-3, 9), min_size=1, max_size=200).map(np.array)
alphas = st.one_of(st.floats(1e-6, 1e4), st.just(math.inf))
seeds = st.integers(0, 2**32)


@given(targets, st.integers(1, 20), alphas, seeds)
def test_equal_parts_are_equal_and_share_nothing(
    classes: NDArray[np.int64], devices: int, alpha: float, seed: int
) -> None:
    assume(devices <= len(classes))
    parts = lda(classes, devices, alpha, np.random.default_rng(seed))
    assert [len(p) for p in parts] == [len(classes) // devices] * devices
    together = np.concatenate(parts)
    assert len(np.unique(together)) == len(together)
    assert together.min() >= 0
    assert together.max() < len(classes)


@given(targets, st.integers(1, 20), alphas, seeds)
def test_unequal_parts_hold_every_example_once_and_none_is_empty(
    classes: NDArray[np.int64], devices: int, alpha: float, seed: int
) -> None:
    assume(devices <= len(classes))
    rng = np.random.default_rng(seed)
    parts = lda(classes, devices, alpha, rng, equal_sizes=False)
    assert len(parts) == devices
    assert min(len(p) for p in parts) >= 1
    assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(len(classes)))


@given(targets, alphas, seeds, st.booleans())
def test_the_same_seed_gives_the_same_ascending_parts(
    classes: NDArray[np.int64],
    alpha: float,
    seed: int,
    equal: bool,
) -> None:
    devices = min(5, len(classes))

    def draw() -> list[NDArray[np.int64]]:
        rng = np.random.default_rng(seed)
        return lda(classes, devices, alpha, rng, equal_sizes=equal)

    for one, other in zip(draw(), draw(), strict=True):
        assert one.dtype == np.int64
        assert np.array_equal(one, other)
        assert np.all(np.diff(one) > 0)


def largest_share(classes: NDArray[np.int64], parts: list[NDArray[np.int64]]) -> float:
    """Mean over devices of the part that its commonest class makes up."""
    return float(np.mean([np.bincount(classes[p]).max() / len(p) for p in parts]))


@pytest.mark.parametrize("equal", [True, False])
def test_a_smaller_alpha_is_more_skewed(equal: bool) -> None:
    classes = np.repeat(np.arange(10), 600)
    shares = [
        largest_share(
            classes, lda(classes, 20, a, np.random.default_rng(0), equal_sizes=equal)
        )
        for a in (0.1, 1.0, 100.0, math.inf)
    ]
    assert shares == sorted(shares, reverse=True)
    assert shares[0] > 0.5
    assert shares[-1] < 0.16


def test_infinite_alpha_without_equal_sizes_is_an_even_cut() -> None:
    classes = np.repeat(np.arange(10), 60)
    parts = lda(classes, 6, math.inf, np.random.default_rng(0), equal_sizes=False)
    assert all(np.bincount(classes[p]).tolist() == [10] * 10 for p in parts)


def test_drawing_all_at_once_is_drawing_one_by_one() -> None:
    """The class counts of the last device, against a plain loop, in distribution."""
    classes, runs = np.repeat(np.arange(3), 8), 3000
    rng = np.random.default_rng(3)

    def one_by_one() -> list[int]:
        left, counts = np.full(3, 8), np.zeros(3, int)
        for _ in range(3):
            share, counts = rng.dirichlet(np.full(3, 0.5)), np.zeros(3, int)
            for _ in range(8):
                share = np.where(left > 0, share + 1e-5 * (left == 0).any(), 0)
                share /= share.sum()
                kind = rng.choice(3, p=share)
                left[kind] -= 1
                counts[kind] += 1
        return sorted(counts.tolist())

    ours = np.array(
        [sorted(np.bincount(classes[lda(classes, 3, 0.5, rng)[-1]], minlength=3))
         for _ in range(runs)]
    )  # fmt: skip
    plain = np.array([one_by_one() for _ in range(runs)])
    # Standard error of a mean of 3,000 counts in 0..8 is below 0.04.
    np.testing.assert_allclose(ours.mean(axis=0), plain.mean(axis=0), atol=0.2)


@pytest.mark.parametrize("alpha", [0.0, -1.0, math.nan])
def test_an_alpha_that_is_not_positive_is_refused(alpha: float) -> None:
    with pytest.raises(DataError, match="alpha"):
        lda(np.arange(4), 2, alpha, np.random.default_rng(0))


@pytest.mark.parametrize("devices", [0, -1, 5])
def test_too_many_or_no_devices_are_refused(devices: int) -> None:
    with pytest.raises(DataError, match="4 examples"):
        lda(np.arange(4), devices, 1.0, np.random.default_rng(0))


@given(st.lists(st.sampled_from(["ann", "bob", "cy"]), max_size=30))
def test_groups_are_parts(groups: list[str]) -> None:
    parts = by_group(np.array(groups, dtype="U3"))
    assert [{groups[i] for i in p} for p in parts] == [{g} for g in sorted({*groups})]
    assert sorted(i for p in parts for i in p) == list(range(len(groups)))


EXAMPLES = Examples(
    np.arange(24, dtype=np.uint8).reshape(2, 3, 4), np.array([1, 0], np.int64)
)


@pytest.mark.parametrize("part", ["train", "eval"])
def test_a_saved_part_loads_again(tmp_path: Path, part: str) -> None:
    path = save_partition(tmp_path / "new" / "pi-1", EXAMPLES, part=part)  # type: ignore[arg-type]
    assert path.name == f"{part}.npz"
    again = load_partition(path.parent, part=part)  # type: ignore[arg-type]
    np.testing.assert_array_equal(again.inputs, EXAMPLES.inputs)
    np.testing.assert_array_equal(again.targets, EXAMPLES.targets)
    assert again.inputs.dtype == np.uint8
    assert again.targets.dtype == np.int64
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_equal_examples_give_equal_bytes(tmp_path: Path) -> None:
    one = save_partition(tmp_path / "one", EXAMPLES)
    two = save_partition(tmp_path / "two", EXAMPLES)
    assert one.read_bytes() == two.read_bytes()


def test_every_truncation_of_a_part_is_refused(tmp_path: Path) -> None:
    path = save_partition(tmp_path, EXAMPLES)
    content = path.read_bytes()
    for length in range(len(content)):
        path.write_bytes(content[:length])
        with pytest.raises(DataError, match=r"train\.npz"):
            load_partition(tmp_path)


def test_what_is_no_file_of_arrays_is_said_so_without_advice_to_trust_it(
    tmp_path: Path,
) -> None:
    (tmp_path / "train.npz").write_bytes(b"\x93 a page of words, and no arrays" * 9)
    with pytest.raises(DataError, match=r"damaged: it is no file of arrays") as caught:
        load_partition(tmp_path)
    assert "pickle" not in str(caught.value)


@pytest.mark.parametrize("bit", [0, 3, 7])
def test_a_flipped_bit_is_refused_or_harmless(tmp_path: Path, bit: int) -> None:
    path = save_partition(tmp_path, EXAMPLES)
    content = path.read_bytes()
    refused = 0
    for place in range(len(content)):
        damaged = bytearray(content)
        damaged[place] ^= 1 << bit
        path.write_bytes(damaged)
        try:
            again = load_partition(tmp_path)
        except DataError:
            refused += 1
        else:  # a time stamp or a permission, never the examples
            assert np.array_equal(again.inputs, EXAMPLES.inputs)
            assert np.array_equal(again.targets, EXAMPLES.targets)
    assert refused > EXAMPLES.inputs.nbytes + EXAMPLES.targets.nbytes


def test_an_empty_folder_names_itself_and_what_belongs_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"{tmp_path} holds no train.npz") as caught:
        load_partition(tmp_path)
    assert "inputs (n, ...) and targets (n,)" in caught.value.help


@pytest.mark.parametrize(
    "arrays",
    [
        pytest.param({"inputs": np.zeros(2)}, id="no-targets"),
        pytest.param({"inputs": np.zeros(2), "targets": np.zeros(3)}, id="unlike"),
        pytest.param({"inputs": np.zeros(0), "targets": np.zeros(0)}, id="none"),
        pytest.param({"inputs": np.array([{}]), "targets": np.zeros(1)}, id="objects"),
    ],
)
def test_an_npz_of_something_else_is_refused(
    tmp_path: Path, arrays: dict[str, NDArray[np.generic]]
) -> None:
    np.savez(tmp_path / "train.npz", **arrays)  # type: ignore[arg-type]
    with pytest.raises(DataError, match=r"train\.npz"):
        load_partition(tmp_path)


def test_a_lone_array_instead_of_an_npz_is_refused(tmp_path: Path) -> None:
    with (tmp_path / "train.npz").open("wb") as file:
        np.save(file, np.zeros(3))
    with pytest.raises(DataError, match="damaged"):
        load_partition(tmp_path)


def test_a_folder_that_cannot_be_written_is_a_data_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DataError, match=str(tmp_path / "file")):
        save_partition(tmp_path / "file" / "pi-1", EXAMPLES)
