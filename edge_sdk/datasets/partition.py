"""Split of a data set into one private folder of examples per device."""

from __future__ import annotations

import io
import math
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from edge_sdk.datasets.files import array_damage, write_file
from edge_sdk.errors import DataError
from edge_sdk.tasks.task import Examples

__all__ = ["Part", "by_group", "lda", "load_partition", "save_once", "save_partition"]

Index: TypeAlias = NDArray[np.int64]
Part: TypeAlias = Literal["train", "eval"]

# Added when a class has run out and the rest are renormalised, so that a device whose
# own classes are all gone still draws; the value is Flower's.
_EPSILON = 1e-5

# What numpy and zipfile raised over every truncation and every flipped bit of a part:
# a missing or cut member, a wrong CRC, "compressed", "encrypted", a lone array.
_DAMAGE = (
    *(OSError, EOFError, ValueError, TypeError, KeyError, RuntimeError, AttributeError),
    *(zipfile.BadZipFile, zlib.error, struct.error),
)


def lda(
    targets: NDArray[np.generic],
    devices: int,
    alpha: float,
    rng: np.random.Generator,
    *,
    equal_sizes: bool = True,
) -> list[Index]:
    """Latent Dirichlet allocation: each device's classes follow Dirichlet(alpha).

    With `equal_sizes` every device holds floor(n / devices) examples, drawn without
    replacement; a class that has run out is left out and the rest renormalised. The
    remainder of the division goes to nobody. Without, each class is cut over the
    devices in Dirichlet proportions, every example goes to exactly one of them, and
    none is empty.

    Args:
        targets: (n,) class of each example.
        devices: How many parts.
        alpha: Concentration; 0.1 gives a device one or two classes, ``math.inf`` all
            of them in the same proportions.
        rng: The only source of randomness.
        equal_sizes: As FLASH and Flower have it.

    Returns:
        Positions per device, ascending, each at most once over all devices.

    Raises:
        DataError: If `alpha` is not positive or there are fewer examples than devices.

    Source:
        Hsu et al., arXiv:1909.06335, section 3; equal sizes as in Flower.
    """
    if not alpha > 0:
        raise DataError(f"alpha is {alpha}; it must be above 0 (0.1 skewed, inf alike)")
    if devices < 1 or len(targets) < devices:
        raise DataError(
            f"{len(targets)} examples cannot be cut into {devices} parts",
            remedy="Use fewer devices, at least one, or more examples.",
        )
    kinds, kind = np.unique(targets, return_inverse=True)
    piles = [rng.permutation(np.flatnonzero(kind == k)) for k in range(len(kinds))]
    parts = (_equal if equal_sizes else _unequal)(piles, devices, alpha, rng)
    return [np.sort(part) for part in parts]


def by_group(groups: NDArray[np.generic]) -> list[Index]:
    """One part per distinct group (a writer, a subject), in the groups' own order.

    Example:
        >>> [part.tolist() for part in by_group(np.array(["b", "a", "b"]))]
        [[1], [0, 2]]
    """
    _, group = np.unique(groups, return_inverse=True)
    order = np.argsort(group, kind="stable")
    return np.split(order, np.cumsum(np.bincount(group))[:-1]) if len(order) else []


def save_partition(folder: Path, examples: Examples, *, part: Part = "train") -> Path:
    """Writes ``train.npz`` (or ``eval.npz``): uncompressed `inputs` and `targets`.

    The file appears whole or not at all, and equal examples give equal bytes.

    Raises:
        DataError: If the folder cannot be written.
    """
    buffer = io.BytesIO()
    np.savez(buffer, inputs=examples.inputs, targets=examples.targets)
    path = folder / f"{part}.npz"
    write_file(path, buffer.getvalue())
    return path


def load_partition(folder: Path, *, part: Part = "train") -> Examples:
    """Reads what `save_partition` wrote.

    Raises:
        DataError: If the file is missing, damaged, or holds no examples.
    """
    path = folder / f"{part}.npz"
    remedy = (
        f"Put a file {part}.npz with arrays inputs (n, ...) and targets (n,) into "
        f"{folder}."
    )
    try:
        # Opened here: np.load leaves a damaged zip open when given its path.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return Examples(arrays["inputs"], arrays["targets"])
    except FileNotFoundError as error:
        raise DataError(f"{folder} holds no {part}.npz", remedy=remedy) from error
    except DataError as error:
        raise DataError(f"{path}: {error}", remedy=remedy) from error
    except _DAMAGE as error:
        what = f"{path} is damaged: {array_damage(error)}"
        raise DataError(what, remedy=remedy) from error


def _equal(
    piles: list[Index], devices: int, alpha: float, rng: np.random.Generator
) -> list[Index]:
    size = sum(map(len, piles)) // devices
    parts: list[Index] = []
    used = np.zeros(len(piles), np.int64)
    total = np.array([len(pile) for pile in piles])
    for _ in range(devices):
        share = _dirichlet(total / total.sum(), alpha, rng)
        take = _draw(share, size, total - used, rng)
        parts.append(
            np.concatenate(
                [p[u : u + t] for p, u, t in zip(piles, used, take, strict=True)]
            )
        )
        used += take
    return parts


def _draw(
    share: NDArray[np.float64], count: int, left: Index, rng: np.random.Generator
) -> Index:
    """Draw how many examples to take of each class: `count` in all, none above `left`.

    Drawing all at once and drawing the excess again gives the same distribution as one
    by one: in which order draws find a class exhausted does not change the counts.
    """
    take = np.zeros(len(share), np.int64)
    while count:
        room = left - take
        if (room == 0).any():
            share = np.where(room > 0, share + _EPSILON, 0.0)
            share /= share.sum()
        more = np.minimum(rng.multinomial(count, share), room)
        take += more
        count -= int(more.sum())
    return take


def _unequal(
    piles: list[Index], devices: int, alpha: float, rng: np.random.Generator
) -> list[Index]:
    even = np.full(devices, 1 / devices)
    parts: list[list[Index]] = [[] for _ in range(devices)]
    for pile in piles:
        share = _dirichlet(even, alpha, rng)
        cuts = np.round(np.cumsum(share)[:-1] * len(pile)).astype(np.int64)
        for part, piece in zip(parts, np.split(pile, cuts), strict=True):
            part.append(piece)
    joined = [np.concatenate(part) for part in parts]
    for empty in (i for i, part in enumerate(joined) if not len(part)):
        largest = int(np.argmax([len(part) for part in joined]))
        joined[empty], joined[largest] = np.split(joined[largest], [1])
    return joined


def _dirichlet(
    mean: NDArray[np.float64], alpha: float, rng: np.random.Generator
) -> NDArray[np.float64]:
    if math.isinf(alpha):
        return mean
    share = rng.dirichlet(np.full(len(mean), alpha))
    # Below about 1e-3 every gamma variate may underflow to 0, and 0 / 0 follows.
    if not np.isfinite(share).all():
        share = np.zeros(len(mean))
        share[rng.integers(len(mean))] = 1.0
    return share


def save_once(folder: Path, examples: Examples, *, part: Part) -> str:
    """Saves a part unless it is there; says which array of what is there differs.

    Returns:
        ``inputs`` or ``targets``; empty where both are the same, bit by bit.

    Raises:
        DataError: As `save_partition` and `load_partition`.
    """
    if not (folder / f"{part}.npz").exists():
        save_partition(folder, examples, part=part)
        return ""
    before = load_partition(folder, part=part)
    for name in ("inputs", "targets"):
        old, new = getattr(before, name), np.ascontiguousarray(getattr(examples, name))
        same = old.dtype == new.dtype and old.shape == new.shape
        if not same or old.tobytes() != new.tobytes():
            return name
    return ""
