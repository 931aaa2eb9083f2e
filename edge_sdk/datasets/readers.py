"""Data sets in the file formats that their authors publish, read as arrays.

Nothing is fetched and nothing is unpickled: of CIFAR the binary version is read.
"""

from __future__ import annotations

import json
import re
import wave
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge_sdk.datasets.files import array_damage
from edge_sdk.errors import DataError
from edge_sdk.tasks.task import Examples

__all__ = [
    "Grouped",
    "log_spectrogram",
    "read_cifar10",
    "read_cifar100",
    "read_femnist",
    "read_spoken_digits",
]

CIFAR_BYTES = 3 * 32 * 32
RATE_HZ = 8000
FRAME, HOP, BANDS = 256, 128, 40  # 32 ms, 16 ms; of one second: 61 frames
_WAV = re.compile(r"(?P<digit>\d)_(?P<speaker>[^_]+)_(?P<take>\d+)\.wav")


@dataclass(frozen=True, eq=False)
class Grouped:
    """Examples that belong to somebody: a writer, a speaker, a subject.

    Attributes:
        examples: The examples.
        groups: (n,) whose each one is.
    """

    examples: Examples
    groups: NDArray[np.str_]


def read_cifar10(folder: Path) -> tuple[Examples, Examples]:
    """CIFAR-10, binary version: uint8 (n, 3, 32, 32) and classes; train and test.

    Args:
        folder: ``cifar-10-batches-bin``, with data_batch_1.bin ... and test_batch.bin.

    Raises:
        DataError: If a file is missing or not whole records of 3,073 bytes.
    """
    parts = [folder / f"data_batch_{i}.bin" for i in range(1, 6)]
    return _cifar(parts, 1), _cifar([folder / "test_batch.bin"], 1)


def read_cifar100(folder: Path) -> tuple[Examples, Examples]:
    """CIFAR-100, binary version, with its 100 fine classes; as `read_cifar10`.

    Args:
        folder: ``cifar-100-binary``, with train.bin and test.bin.

    Raises:
        DataError: If a file is missing or not whole records of 3,074 bytes.
    """
    return _cifar([folder / "train.bin"], 2), _cifar([folder / "test.bin"], 2)


def read_femnist(folder: Path) -> tuple[Grouped, Grouped]:
    """FEMNIST as LEAF writes it (arXiv:1812.01097): uint8 (n, 1, 28, 28), 62 classes.

    Args:
        folder: LEAF's ``data/femnist/data``, with ``train`` and ``test`` folders of
            JSON files that hold `users`, `num_samples` and `user_data`.

    Returns:
        Training and test examples with their writers.

    Raises:
        DataError: If there is no file, or one is not in LEAF's format.
    """
    return _leaf(folder / "train"), _leaf(folder / "test")


def read_spoken_digits(path: Path) -> Grouped:
    """The Free Spoken Digit Dataset as log spectrograms: float32 (n, 1, 61, 40).

    Args:
        path: Its ``recordings`` folder of ``<digit>_<speaker>_<take>.wav`` at 8 kHz, or
            an npz of the same: audio (int16, all clips one after the other), lengths,
            digit, speaker (an index), speakers (their names).

    Returns:
        The clips, one second each (cut, or filled with silence), and their speakers.

    Raises:
        DataError: If there is no clip, or one is not 16-bit mono at 8 kHz.
    """
    clips, digits, speakers = _npz(path) if path.is_file() else _wavs(path)
    inputs = np.stack([log_spectrogram(clip) for clip in clips])[:, None]
    return Grouped(Examples(inputs, np.array(digits, np.int64)), np.array(speakers))


def log_spectrogram(clip: NDArray[np.int16]) -> NDArray[np.float32]:
    """Log energies of mel bands, zero mean: float32 (61, 40).

    Args:
        clip: int16 (samples,) at 8 kHz.
    """
    audio = np.zeros(RATE_HZ, np.float64)
    audio[: len(clip)] = clip[:RATE_HZ] / 32768.0
    starts = np.arange(0, RATE_HZ - FRAME + 1, HOP)
    frames = audio[starts[:, None] + np.arange(FRAME)] * np.hanning(FRAME)
    power = np.abs(np.fft.rfft(frames)) ** 2
    energy = np.log(power @ _mel_bands().T + 1e-6)
    found: NDArray[np.float32] = (energy - energy.mean()).astype(np.float32)
    return found


@cache
def _mel_bands() -> NDArray[np.float64]:
    """Triangles at equal distances in mel (O'Shaughnessy): (bands, FRAME / 2 + 1)."""
    bins = np.fft.rfftfreq(FRAME, 1 / RATE_HZ)
    top = 2595 * np.log10(1 + RATE_HZ / 2 / 700)
    edges = 700 * (10 ** (np.linspace(0, top, BANDS + 2) / 2595) - 1)
    left, middle, right = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    rising, falling = (bins - left) / (middle - left), (right - bins) / (right - middle)
    found: NDArray[np.float64] = np.maximum(np.minimum(rising, falling), 0.0)
    found.setflags(write=False)  # every clip is given the same
    return found


def _cifar(paths: Sequence[Path], labels: int) -> Examples:
    size = labels + CIFAR_BYTES
    records = []
    for path in paths:
        raw = np.frombuffer(_bytes(path), np.uint8)
        if not raw.size or raw.size % size:
            raise DataError(f"{path}: {raw.size} bytes are not records of {size}")
        records.append(raw.reshape(-1, size))
    table = np.concatenate(records)
    images = table[:, labels:].reshape(-1, 3, 32, 32)
    return Examples(images.copy(), table[:, labels - 1].astype(np.int64))


def _leaf(folder: Path) -> Grouped:
    files = sorted(folder.glob("*.json"))
    if not files:
        raise DataError(
            f"{folder} holds no .json file",
            remedy="Name the folder with LEAF's train and test folders in it.",
        )
    pixels: list[NDArray[np.uint8]] = []
    targets: list[NDArray[np.int64]] = []
    writers: list[str] = []
    for path in files:
        for writer, images, classes in _users(path):
            pixels.append(images)
            targets.append(classes)
            writers += [writer] * len(classes)
    inputs = np.concatenate(pixels).reshape(-1, 1, 28, 28)
    return Grouped(Examples(inputs, np.concatenate(targets)), np.array(writers))


def _users(path: Path) -> list[tuple[str, NDArray[np.uint8], NDArray[np.int64]]]:
    try:
        found = json.loads(_bytes(path))
        users = []
        for name in found["users"]:
            images = np.asarray(found["user_data"][name]["x"], np.float64)
            classes = np.asarray(found["user_data"][name]["y"], np.int64)
            if images.shape != (len(classes), 784):
                raise DataError(f"{path}: writer {name} has images {images.shape}")
            users.append((name, np.rint(images * 255).astype(np.uint8), classes))
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} is not in LEAF's format: {error!r}") from error
    return users


def _wavs(folder: Path) -> tuple[list[NDArray[np.int16]], list[int], list[str]]:
    named = [(path, _WAV.fullmatch(path.name)) for path in sorted(folder.glob("*.wav"))]
    known = [(path, match) for path, match in named if match is not None]
    if not known:
        raise DataError(
            f"{folder} holds no <digit>_<speaker>_<take>.wav",
            remedy="Name the data set's recordings folder.",
        )
    clips = [_wav(path) for path, _ in known]
    return (
        clips,
        [int(match["digit"]) for _, match in known],
        [match["speaker"] for _, match in known],
    )


def _wav(path: Path) -> NDArray[np.int16]:
    try:
        with wave.open(str(path), "rb") as file:
            kind = file.getnchannels(), file.getsampwidth(), file.getframerate()
            raw = file.readframes(file.getnframes())
    except (wave.Error, EOFError, OSError) as error:
        raise DataError(f"{path} is not a wave file: {error}") from error
    if kind != (1, 2, RATE_HZ):
        raise DataError(f"{path}: (channels, bytes, Hz) is {kind}, not (1, 2, 8000)")
    return np.frombuffer(raw, "<i2").astype(np.int16)


def _npz(path: Path) -> tuple[list[NDArray[np.int16]], list[int], list[str]]:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            audio, lengths = arrays["audio"], arrays["lengths"]
            names, digits = arrays["speakers"][arrays["speaker"]], arrays["digit"]
    except (OSError, ValueError, KeyError, IndexError) as error:
        why = array_damage(error)
        raise DataError(f"{path} does not hold spoken digits: {why}") from error
    if lengths.sum() != len(audio) or not len(lengths) == len(digits) == len(names):
        raise DataError(f"{path}: its arrays do not fit together")
    clips = np.split(audio, np.cumsum(lengths)[:-1])
    return clips, digits.tolist(), names.tolist()


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error}") from error
