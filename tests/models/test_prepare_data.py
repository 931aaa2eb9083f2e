"""One folder per device: made once, made again only when something changed."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from edge_sdk.datasets.partition import load_partition
from edge_sdk.datasets.prepare import prepare_folders
from edge_sdk.errors import DataError

DEVICES = ("pi-1", "pi-2", "nano")


def prepare(
    out: Path, *, devices: tuple[str, ...] = DEVICES, alpha: float = 0.5, seed: int = 1
) -> dict[str, Path]:
    return prepare_folders(
        "digits", out / "no-cache", out, devices, alpha=alpha, seed=seed
    )


def snapshot(out: Path) -> dict[str, tuple[int, bytes]]:
    """Inode and content: a rewritten file has another inode."""
    return {
        str(p.relative_to(out)): (p.stat().st_ino, p.read_bytes())
        for p in out.rglob("*.npz")
    }


def test_every_device_has_its_own_share_and_the_test_set_is_whole(
    tmp_path: Path,
) -> None:
    places = prepare(tmp_path)
    assert list(places) == [*DEVICES, "evaluation"]
    parts = [load_partition(places[name]) for name in DEVICES]
    assert [len(p) for p in parts] == [1433 // 3] * 3
    assert len(load_partition(places["evaluation"], part="eval")) == 364
    assert not (places["evaluation"] / "train.npz").exists()
    images = np.concatenate([p.inputs for p in parts])
    assert len(np.unique(images, axis=0)) == len(images)  # digits has no twins


def test_the_same_again_writes_nothing(tmp_path: Path) -> None:
    prepare(tmp_path)
    before = snapshot(tmp_path)
    prepare(tmp_path)
    assert snapshot(tmp_path) == before


def test_a_damaged_or_missing_file_is_made_again_with_the_same_bytes(
    tmp_path: Path,
) -> None:
    places = prepare(tmp_path)
    before = snapshot(tmp_path)
    (places["pi-1"] / "train.npz").write_bytes(b"damaged")
    (places["nano"] / "train.npz").unlink()
    prepare(tmp_path)
    after = snapshot(tmp_path)
    assert {k: v[1] for k, v in after.items()} == {k: v[1] for k, v in before.items()}


@pytest.mark.parametrize("change", [{"seed": 2}, {"alpha": 5.0}], ids=str)
def test_another_parameter_gives_other_shares(
    tmp_path: Path, change: dict[str, float]
) -> None:
    prepare(tmp_path)
    before = snapshot(tmp_path)
    prepare(tmp_path, **change)  # type: ignore[arg-type]
    after = snapshot(tmp_path)
    assert after["pi-1/train.npz"][1] != before["pi-1/train.npz"][1]
    assert after["evaluation/eval.npz"][1] == before["evaluation/eval.npz"][1]


def test_the_data_of_a_device_that_left_is_removed(tmp_path: Path) -> None:
    prepare(tmp_path)
    prepare(tmp_path, devices=("pi-1", "pi-2"))
    assert not (tmp_path / "nano" / "train.npz").exists()


def test_a_run_cut_short_is_taken_up_again(tmp_path: Path) -> None:
    prepare(tmp_path)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    manifest["files"] = dict.fromkeys(manifest["files"])  # as before the first file
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    (tmp_path / "pi-2" / "train.npz").unlink()
    prepare(tmp_path)
    assert len(load_partition(tmp_path / "pi-2")) == 1433 // 3


def test_a_person_s_own_data_is_never_replaced(tmp_path: Path) -> None:
    own = tmp_path / "pi-2" / "train.npz"
    own.parent.mkdir()
    own.write_bytes(b"precious")
    with pytest.raises(DataError, match=r"pi-2/train\.npz"):
        prepare(tmp_path)
    assert own.read_bytes() == b"precious"


def test_a_manifest_cannot_make_us_delete_elsewhere(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_bytes(b"precious")
    out = tmp_path / "out"
    prepare(out)
    manifest = json.loads((out / "manifest.json").read_text())
    manifest["files"]["../precious"] = None
    (out / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(DataError, match="did not write"):
        prepare(out)
    assert precious.exists()


@pytest.mark.parametrize("name", ["", "..", "a/b", "/x", "evaluation", "-rf", "a b"])
def test_a_name_that_is_no_folder_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match="cannot be a device's folder"):
        prepare(tmp_path, devices=("pi-1", name))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("devices", [(), ("a", "a")], ids=["none", "twice"])
def test_no_device_or_one_twice_is_refused(
    tmp_path: Path, devices: tuple[str, ...]
) -> None:
    with pytest.raises(DataError, match="device names"):
        prepare(tmp_path, devices=devices)


def test_a_negative_seed_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="seed"):
        prepare(tmp_path, seed=-1)


def test_four_who_prepare_at_once_agree(tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        places = list(pool.map(lambda _: prepare(tmp_path), range(4)))
    assert places == [places[0]] * 4
    assert len(snapshot(tmp_path)) == 4
    assert not list(tmp_path.rglob("*.tmp"))
