"""One private folder per device out of a shipped data set, and one to evaluate on."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edge_sdk.datasets.files import exclusive, sha256_of, write_file
from edge_sdk.datasets.partition import lda, save_partition
from edge_sdk.datasets.shipped import load_dataset
from edge_sdk.errors import DataError

__all__ = ["EVALUATION_FOLDER", "prepare_folders"]

EVALUATION_FOLDER = "evaluation"

_MANIFEST = "manifest.json"
_FORMAT = 1
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


def prepare_folders(
    task_name: str,
    cache: Path,
    out: Path,
    devices: Sequence[str],
    *,
    alpha: float,
    seed: int,
    progress: Callable[[str], None] | None = None,
) -> dict[str, Path]:
    """Fetches, partitions and writes ``out/<device>/train.npz`` and the evaluation set.

    The whole test set goes to ``out/evaluation/eval.npz``. Nothing is done when
    ``out/manifest.json`` says the same parameters and every file is as it was written.

    Args:
        task_name: A shipped task with data: ``mnist``, ``fashion`` or ``digits``.
        cache: Where fetched data sets stay.
        out: Folder to write into; folders of an earlier call are replaced, a person's
            own ``train.npz`` never is.
        devices: Names of the devices; equal shares go to them in this order.
        alpha: Dirichlet concentration of `edge_sdk.datasets.partition.lda`.
        seed: Of the partition, 0 or more.
        progress: Told in words what is done.

    Returns:
        Device name to its folder, and "evaluation" to the coordinator's.

    Raises:
        DataError: If the data cannot be had or written, a name cannot be a folder, or
            `out` holds data that this function did not write.
    """
    _check_names(devices)
    if seed < 0:
        raise DataError(f"the partition's seed is {seed}; it must be 0 or more")
    wanted = {
        "format": _FORMAT,
        "task": task_name,
        "devices": list(devices),
        "alpha": repr(float(alpha)),
        "seed": seed,
    }
    places = {name: out / name for name in (*devices, EVALUATION_FOLDER)}
    files = [f"{name}/train.npz" for name in devices] + [
        f"{EVALUATION_FOLDER}/eval.npz"
    ]
    with exclusive(out):
        before = _read_manifest(out)
        if _same(before, wanted, files) and _verified(out, before):
            return places
        _check_ours(out, files, before)
        train, evaluation = load_dataset(task_name, cache, progress=progress)
        parts = lda(train.targets, len(devices), alpha, np.random.default_rng(seed))
        # Before the first file, so that a run cut short here knows its own files again.
        _write_manifest(out, {**wanted, "files": dict.fromkeys(files)})
        for old in sorted(set(before.get("files", {})) - set(files)):
            (out / old).unlink(missing_ok=True)
        if progress is not None:
            progress(f"{task_name}: writing {len(devices)} device folders to {out}")
        for name, part in zip(devices, parts, strict=True):
            save_partition(places[name], train.take(part))
        save_partition(places[EVALUATION_FOLDER], evaluation, part="eval")
        digests = {file: sha256_of(out / file) for file in files}
        _write_manifest(out, {**wanted, "files": digests})
    return places


def _check_names(devices: Sequence[str]) -> None:
    for name in devices:
        if not _NAME.fullmatch(name) or name in (EVALUATION_FOLDER, _MANIFEST):
            raise DataError(
                f"{name!r} cannot be a device's folder",
                remedy="Use letters, digits, dots, dashes and underscores.",
            )
    if not devices or len(set(devices)) != len(devices):
        raise DataError(
            f"{len(devices)} device names, {len(set(devices))} of them distinct",
            remedy="Name at least one device, and none twice.",
        )


def _read_manifest(out: Path) -> dict[str, Any]:
    try:
        manifest = json.loads((out / _MANIFEST).read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    known = isinstance(manifest, dict) and isinstance(manifest.get("files"), dict)
    # Paths out of a file are deleted below: only our own two spellings count.
    spelled = re.compile(rf"{_NAME.pattern}/(train|eval)\.npz")
    return manifest if known and all(map(spelled.fullmatch, manifest["files"])) else {}


def _write_manifest(out: Path, manifest: dict[str, Any]) -> None:
    write_file(out / _MANIFEST, json.dumps(manifest, indent=1).encode())


def _same(before: dict[str, Any], wanted: dict[str, Any], files: list[str]) -> bool:
    return {k: v for k, v in before.items() if k != "files"} == wanted and list(
        before["files"]
    ) == files


def _verified(out: Path, manifest: dict[str, Any]) -> bool:
    return all(
        digest is not None and sha256_of(out / file) == digest
        for file, digest in manifest["files"].items()
    )


def _check_ours(out: Path, files: list[str], before: dict[str, Any]) -> None:
    ours = before.get("files", {})
    foreign = [file for file in files if file not in ours and (out / file).exists()]
    if foreign:
        raise DataError(
            f"{out} holds {', '.join(foreign)}, which this command did not write",
            remedy="Choose an empty folder, or move that data away.",
        )
