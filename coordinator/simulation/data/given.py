"""Examples given as arrays: private partition files in a run's folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from edge_sdk.datasets.partition import save_once
from edge_sdk.datasets.prepare import EVALUATION_FOLDER
from edge_sdk.datasets.rows import examples_of
from edge_sdk.errors import DataError, StateError, disk_remedy
from edge_sdk.private_files import make_private
from edge_sdk.tasks.task import Examples

__all__ = ["check_examples", "write_examples"]

DATA = "data"


def check_examples(
    devices: Sequence[object], evaluation: object
) -> tuple[list[Examples], Examples]:
    """The devices' examples and those to score on, of any form that `simulate` takes.

    Raises:
        DataError: Names the device whose are none.
    """
    if not devices:
        raise DataError(
            "devices is empty", remedy="Give one edge_sdk.Examples per device."
        )
    scored = examples_of(evaluation, "evaluation")
    return [examples_of(d, f"devices[{i}]") for i, d in enumerate(devices)], scored


def write_examples(
    folder: Path, devices: Sequence[Examples], evaluation: Examples
) -> Path:
    """Writes one subfolder per device and ``evaluation``; leaves what is there.

    Args:
        folder: The run's.
        devices: ``device-00000`` and so on, in their order.
        evaluation: What models are scored on.

    Returns:
        The folder of folders.

    Raises:
        StateError: If the run began with other examples.
        DataError: If the folder cannot be written.
    """
    data = folder / DATA
    names = [f"device-{index:05d}" for index in range(len(devices))]
    there = {p.name for p in data.glob("device-*")} if data.is_dir() else set()
    if there - set(names):
        raise _others(folder, f"{len(there)} devices, not {len(names)}")
    try:
        for place in (folder, data, *(data / n for n in (*names, EVALUATION_FOLDER))):
            make_private(place)
    except OSError as error:
        raise DataError(
            f"{folder} cannot be made: {error}", remedy=disk_remedy(error)
        ) from error
    for name, examples in zip(names, devices, strict=True):
        _write(folder, data / name, examples, "train")
    _write(folder, data / EVALUATION_FOLDER, evaluation, "eval")
    return data


def _write(
    run: Path, folder: Path, examples: Examples, part: Literal["train", "eval"]
) -> None:
    if other := save_once(folder, examples, part=part):
        raise _others(run, f"other {other} of {folder.name}")


def _others(run: Path, what: str) -> StateError:
    return StateError(
        f"{run} holds a simulation of other examples: {what}",
        remedy="Choose another folder, or give the examples that it began with.",
    )
