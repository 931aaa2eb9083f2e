"""Readers on small data written in the authors' own formats."""

from __future__ import annotations

import json
import wave
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from coordinator.simulation.data.folders import places_of
from coordinator.simulation.settings import SimulationSettings
from edge_sdk.datasets import fetch
from edge_sdk.datasets.files import sha256_of
from edge_sdk.datasets.groups import hold_out, some_groups, write_groups
from edge_sdk.datasets.partition import load_partition
from edge_sdk.datasets.readers import (
    Grouped,
    log_spectrogram,
    read_cifar10,
    read_cifar100,
    read_femnist,
    read_spoken_digits,
)
from edge_sdk.datasets.tiny_imagenet import read_tiny_imagenet
from edge_sdk.errors import DataError
from edge_sdk.tasks.task import Examples

RNG = np.random.default_rng(5)


def cifar(path: Path, count: int, labels: int) -> np.ndarray:
    table = RNG.integers(0, 256, (count, labels + 3072)).astype(np.uint8)
    table[:, :labels] %= 10
    path.write_bytes(table.tobytes())
    return table


def test_cifar10_is_label_then_planes(tmp_path: Path) -> None:
    tables = [cifar(tmp_path / f"data_batch_{i}.bin", 4, 1) for i in range(1, 6)]
    cifar(tmp_path / "test_batch.bin", 3, 1)
    train, test = read_cifar10(tmp_path)
    assert (len(train), len(test)) == (20, 3)
    assert train.inputs.shape == (20, 3, 32, 32)
    whole = np.concatenate(tables)
    np.testing.assert_array_equal(train.targets, whole[:, 0])
    assert train.inputs[7, 1, 2, 3] == whole[7, 1 + 1024 + 2 * 32 + 3]  # green plane


def test_cifar10_is_cut_into_devices_from_the_folder_that_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = SimulationSettings(
        task="cifar10", data="cifar10", devices=2, alpha=1.0, densities=[0.1]
    )
    monkeypatch.setenv("FLASH_EDGE_DATA", str(tmp_path))
    monkeypatch.setenv("PATH", "")  # no npm
    with pytest.raises(DataError, match="cifar10 is not in") as refused:
        places_of(settings, cache=tmp_path / "cache")
    assert "cifar-10-binary.tar.gz" in refused.value.help
    place = tmp_path / "cifar-10-batches-bin"
    place.mkdir()
    for i in range(1, 6):
        cifar(place / f"data_batch_{i}.bin", 4, 1)
    cifar(place / "test_batch.bin", 3, 1)
    with pytest.raises(DataError, match="wrong SHA-256"):
        places_of(settings, cache=tmp_path / "cache")
    known = {p.name: sha256_of(p) for p in place.iterdir()}
    monkeypatch.setitem(
        fetch.DATA, "cifar10", replace(fetch.DATA["cifar10"], known=known)
    )
    folders, evaluation = places_of(settings, cache=tmp_path / "cache")
    assert [len(load_partition(f)) for f in folders.values()] == [10, 10]
    assert len(load_partition(evaluation, part="eval")) == 3


def test_cifar100_takes_the_fine_class(tmp_path: Path) -> None:
    table = cifar(tmp_path / "train.bin", 4, 2)
    cifar(tmp_path / "test.bin", 2, 2)
    train, _ = read_cifar100(tmp_path)
    np.testing.assert_array_equal(train.targets, table[:, 1])


@pytest.mark.parametrize("size", [0, 3072, 3074])
def test_a_cut_cifar_file_is_named(tmp_path: Path, size: int) -> None:
    for i in range(1, 6):
        (tmp_path / f"data_batch_{i}.bin").write_bytes(bytes(size))
    with pytest.raises(DataError, match="data_batch_1"):
        read_cifar10(tmp_path)


def leaf(folder: Path, writers: dict[str, int]) -> None:
    folder.mkdir(parents=True)
    for i, part in enumerate(np.array_split(sorted(writers), 2)):
        users = {
            w: {
                "x": RNG.random((writers[w], 784)).round(4).tolist(),
                "y": RNG.integers(0, 62, writers[w]).tolist(),
            }
            for w in part.tolist()
        }
        found = {
            "users": list(users),
            "num_samples": [writers[w] for w in users],
            "user_data": users,
        }
        (folder / f"all_data_{i}.json").write_text(json.dumps(found))


def test_femnist_keeps_each_writers_images_together(tmp_path: Path) -> None:
    leaf(tmp_path / "train", {"f1": 3, "f2": 5, "f3": 1})
    leaf(tmp_path / "test", {"f1": 1, "f2": 1})
    train, test = read_femnist(tmp_path)
    assert train.examples.inputs.shape == (9, 1, 28, 28)
    assert train.examples.inputs.dtype == np.uint8
    parts = some_groups(train.groups, 3, np.random.default_rng(0))
    assert {w: len(p) for w, p in parts.items()} == {"f1": 3, "f2": 5, "f3": 1}
    assert sorted(test.groups) == ["f1", "f2"]


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        '{"users": ["a"]}',
        '{"users": ["a"], "user_data": {"a": {"x": [[1]], "y": [0]}}}',
    ],
)
def test_what_is_not_leaf_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "a.json").write_text(text)
    with pytest.raises(DataError, match=r"a\.json"):
        read_femnist(tmp_path)


def write_wav(path: Path, clip: np.ndarray, rate: int = 8000) -> None:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(clip.astype("<i2").tobytes())


def test_spoken_digits_from_wave_files_and_from_an_npz_are_the_same(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "recordings"
    folder.mkdir()
    names = ["0_ann_0", "0_bob_1", "7_ann_0", "7_bob_12"]
    clips = [(RNG.normal(size=n) * 3000).astype(np.int16) for n in (900, 8000, 9000, 5)]
    for name, clip in zip(names, clips, strict=True):
        write_wav(folder / f"{name}.wav", clip)
    np.savez(
        tmp_path / "all.npz",
        audio=np.concatenate(clips),
        lengths=np.array([len(c) for c in clips]),
        digit=np.array([0, 0, 7, 7]),
        speaker=np.array([0, 1, 0, 1]),
        speakers=np.array(["ann", "bob"]),
    )
    one, two = read_spoken_digits(folder), read_spoken_digits(tmp_path / "all.npz")
    assert one.examples.inputs.shape == (4, 1, 61, 40)
    np.testing.assert_array_equal(one.examples.inputs, two.examples.inputs)
    assert (
        one.examples.targets.tolist() == two.examples.targets.tolist() == [0, 0, 7, 7]
    )
    assert one.groups.tolist() == two.groups.tolist() == ["ann", "bob"] * 2
    write_wav(folder / "1_eve_0.wav", clips[0], rate=16000)
    with pytest.raises(DataError, match="1_eve_0"):
        read_spoken_digits(folder)


def test_a_tone_lights_its_own_band() -> None:
    loud = []
    for hertz in (300, 1000, 3000):
        tone = 20000 * np.sin(2 * np.pi * hertz * np.arange(8000) / 8000)
        loud.append(int(log_spectrogram(tone.astype(np.int16)).mean(0).argmax()))
    assert loud == sorted(set(loud))


def test_tiny_imagenet_in_its_own_folders(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    kinds = ["n02", "n01"]
    (tmp_path / "wnids.txt").write_text("\n".join(kinds) + "\n")
    for kind in kinds:
        (tmp_path / "train" / kind / "images").mkdir(parents=True)
    (tmp_path / "val" / "images").mkdir(parents=True)
    gray = image.fromarray(np.full((64, 64), 90, np.uint8))
    red = image.fromarray(np.tile(np.array([200, 0, 0], np.uint8), (64, 64, 1)))
    gray.save(tmp_path / "train" / "n01" / "images" / "n01_0.JPEG")
    red.save(tmp_path / "train" / "n02" / "images" / "n02_0.JPEG")
    red.save(tmp_path / "val" / "images" / "val_0.JPEG")
    notes = tmp_path / "val" / "val_annotations.txt"
    notes.write_text("val_0.JPEG\tn02\t0\t0\t62\t62\n")
    train, val = read_tiny_imagenet(tmp_path)
    assert train.inputs.shape == (2, 3, 64, 64)
    assert (train.targets.tolist(), val.targets.tolist()) == ([0, 1], [0])
    assert val.inputs[0, 0].mean() > 190
    assert val.inputs[0, 1].mean() < 20
    assert np.ptp(train.inputs[1].mean((1, 2))) < 1  # gray becomes three equal planes
    notes.write_text("val_0.JPEG\tn99\t0\n")
    with pytest.raises(DataError, match="val_annotations"):
        read_tiny_imagenet(tmp_path)


def grouped() -> Grouped:
    groups = np.array(["a", "b", "c", "b", "a", "b", "d d"])
    inputs = np.arange(7)[:, None].astype(np.uint8)
    return Grouped(Examples(inputs, np.arange(7)), groups)


def test_groups_are_drawn_by_the_seed_alone() -> None:
    draws = [
        list(some_groups(grouped().groups, 2, np.random.default_rng(s)))
        for s in (1, 1, 2, 3, 4)
    ]
    assert draws[0] == draws[1]
    assert len({tuple(d) for d in draws}) > 1
    large = some_groups(grouped().groups, 1, np.random.default_rng(1), least=3)
    assert list(large) == ["b"]
    with pytest.raises(DataError, match="4 groups have 1 examples or more; 5"):
        some_groups(grouped().groups, 5, np.random.default_rng(1))


def test_groups_become_a_folder_that_a_simulation_takes(tmp_path: Path) -> None:
    train, held = hold_out(grouped(), 0.5, np.random.default_rng(1))
    assert len(train.examples) + len(held) == 7
    parts = some_groups(train.groups, 4, np.random.default_rng(1))
    written = write_groups(tmp_path, train, held, parts)
    settings = SimulationSettings(task="digits", folder=str(tmp_path), densities=[0.1])
    devices, evaluation = places_of(settings)
    assert set(devices.values()) == set(written.values())
    assert len(load_partition(evaluation, part="eval")) == len(held)
    assert load_partition(devices["d-d"]).targets.tolist() == [6]
