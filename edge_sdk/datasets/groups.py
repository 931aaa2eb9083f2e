"""Naturally federated data: one device per writer, speaker or subject."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge_sdk.datasets.partition import by_group, save_partition
from edge_sdk.datasets.prepare import EVALUATION_FOLDER
from edge_sdk.datasets.readers import Grouped
from edge_sdk.errors import DataError
from edge_sdk.tasks.task import Examples

__all__ = ["hold_out", "some_groups", "write_groups"]

Index = NDArray[np.int64]


def some_groups(
    groups: NDArray[np.generic],
    devices: int,
    rng: np.random.Generator,
    *,
    least: int = 1,
) -> dict[str, Index]:
    """`devices` of the groups, drawn without replacement, and where their examples are.

    The same generator state gives the same devices, whatever is trained on them.

    Args:
        groups: (n,) whose each example is.
        devices: How many.
        rng: The only source of randomness.
        least: Groups with fewer examples are left out.

    Raises:
        DataError: If there are fewer such groups.

    Example:
        >>> found = some_groups(np.array(["b", "a", "b"]), 2, np.random.default_rng(1))
        >>> {name: index.tolist() for name, index in found.items()}
        {'a': [1], 'b': [0, 2]}
    """
    parts = [part for part in by_group(groups) if len(part) >= least]
    if devices < 1 or devices > len(parts):
        raise DataError(
            f"{len(parts)} groups have {least} examples or more; {devices} are wanted",
            remedy="Ask for fewer devices, at least one, or for fewer examples each.",
        )
    taken = sorted(rng.permutation(len(parts))[:devices].tolist())
    return {str(groups[parts[i][0]]): parts[i] for i in taken}


def hold_out(
    data: Grouped, share: float, rng: np.random.Generator
) -> tuple[Grouped, Examples]:
    """Training examples, and a share of every group's to evaluate on.

    Raises:
        DataError: If nothing is left for one of the two.
    """
    evaluation = np.zeros(len(data.examples), np.bool_)
    for part in by_group(data.groups):
        count = int(share * len(part))
        evaluation[rng.choice(part, count, replace=False)] = True
    train, held = np.flatnonzero(~evaluation), np.flatnonzero(evaluation)
    return (
        Grouped(data.examples.take(train), data.groups[train]),
        data.examples.take(held),
    )


def write_groups(
    out: Path, data: Grouped, evaluation: Examples, parts: dict[str, Index]
) -> dict[str, Path]:
    """Writes ``out/<group>/train.npz`` and the evaluation set.

    `flash-coordinator simulate` takes `out` as its folder, and each subfolder is a
    device's data.

    Raises:
        DataError: If a folder cannot be written, or two groups have one name.
    """
    names = {group: re.sub(r"[^A-Za-z0-9._-]", "-", group) for group in parts}
    if len(set(names.values())) < len(names) or EVALUATION_FOLDER in names.values():
        raise DataError(f"two of {sorted(parts)[:4]}... have the same folder")
    for group, index in parts.items():
        save_partition(out / names[group], data.examples.take(index))
    save_partition(out / EVALUATION_FOLDER, evaluation, part="eval")
    return {group: out / name for group, name in names.items()}
