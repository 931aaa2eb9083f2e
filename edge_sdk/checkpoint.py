"""A sparse model on disk: safetensors with metadata, replaced atomically."""

from __future__ import annotations

import contextlib
import json
import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_sdk.checksums import SUMS, check_sum, lines_with, sums_of
from edge_sdk.errors import CheckpointError, SparsityError, disk_remedy
from edge_sdk.json_text import floats_from_json, to_json
from edge_sdk.sparse.csr import CsrTensor
from edge_sdk.sparse.mask import LayerShape, Mask
from edge_sdk.tensor_file import (
    TensorFileError,
    read_header,
    read_tensors,
    tensors_to_bytes,
)

__all__ = [
    "Checkpoint",
    "checkpoint_bytes",
    "load_checkpoint",
    "remove_drafts",
    "replace_file",
    "replace_listed",
    "round_of",
    "save_checkpoint",
    "sync",
]

FORMAT = 1


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """The global model of one round at one density.

    Attributes:
        task: The task's reference, ``module:object`` or a shipped name.
        round_no: Rounds aggregated into it.
        layers: The maskable layers, in the model's order.
        mask: Which of their weights are kept.
        values: Weight name to float32 (nnz,), in canonical CSR order.
        dense: Every other ``state_dict`` entry: biases, norms, buffers, dense layers.
        metrics: What was measured about it, such as ``{"accuracy": 0.97}``.
        memory: What the algorithm remembers: quantity -> entry -> its values.
        gain: How the weights of nested models are scaled, of a global model that has
            such; 0 for none. Those of a nested model are scaled already.
        personal: Dense entries that each device has for itself; here are the first.
        adapters: Name of a layer to the rank of its low-rank adapter; on export they
            are folded into these layers.
        privacy: JSON of what it may tell of a device; empty without noise.
    """

    task: str
    round_no: int
    layers: tuple[LayerShape, ...]
    mask: Mask
    values: Mapping[str, NDArray[np.float32]]
    dense: Mapping[str, NDArray[Any]]
    metrics: Mapping[str, float]
    memory: Mapping[str, Mapping[str, NDArray[Any]]] = field(default_factory=dict)
    gain: float = 0.0
    personal: tuple[str, ...] = ()
    adapters: Mapping[str, int] = field(default_factory=dict)
    privacy: str = ""

    def csr(self, name: str) -> CsrTensor:
        """One masked layer as CSR."""
        return CsrTensor.from_values(self.mask[name], self.values[name])

    def state(self) -> dict[str, NDArray[Any]]:
        """The full ``state_dict``: every weight dense, exact zeros off the mask."""
        full: dict[str, NDArray[Any]] = dict(self.dense)
        for layer in self.layers:
            weight = np.zeros(layer.shape, np.float32)
            weight[self.mask[layer.name]] = self.values[layer.name]
            full[layer.name] = weight
        return full


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Writes the checkpoint; a reader sees the old file or the new one, never a part.

    Raises:
        CheckpointError: If the folder cannot be written.
    """
    replace_file(path, checkpoint_bytes(checkpoint))


def checkpoint_bytes(checkpoint: Checkpoint) -> bytes:
    """The checkpoint's file; equal checkpoints give equal bytes."""
    tensors: dict[str, NDArray[Any]] = {}
    for layer in checkpoint.layers:
        csr = checkpoint.csr(layer.name)
        tensors[f"sparse/{layer.name}/values"] = csr.values
        tensors[f"sparse/{layer.name}/indptr"] = csr.indptr
        tensors[f"sparse/{layer.name}/indices"] = csr.indices
    for name, array in checkpoint.dense.items():
        tensors[f"dense/{name}"] = np.asarray(array, order="C")  # 0-d stays 0-d
    for quantity, entries in checkpoint.memory.items():
        for name, array in entries.items():
            tensors[f"state/{quantity}/{name}"] = np.asarray(array, order="C")
    metadata = {
        "format": f"flash-edge checkpoint {FORMAT}",
        "task": checkpoint.task,
        "round": str(checkpoint.round_no),
        "mask_digest": checkpoint.mask.digest.hex(),
        "density": repr(checkpoint.mask.density),
        "layers": json.dumps(
            [[s.name, list(s.shape), s.groups] for s in checkpoint.layers]
        ),
        "dense": json.dumps(list(checkpoint.dense)),
        "metrics": to_json(dict(checkpoint.metrics), sort_keys=True),
    }
    if checkpoint.memory:  # absent otherwise: older bytes stay as they were
        kept = {quantity: list(of) for quantity, of in checkpoint.memory.items()}
        metadata["state"] = json.dumps(kept)
    if checkpoint.gain:
        metadata["gain"] = repr(checkpoint.gain)
    if checkpoint.personal:
        metadata["personal"] = json.dumps(list(checkpoint.personal))
    if checkpoint.adapters:
        metadata["adapters"] = json.dumps(dict(sorted(checkpoint.adapters.items())))
    if checkpoint.privacy:
        metadata["privacy"] = checkpoint.privacy
    return tensors_to_bytes(tensors, metadata)


def round_of(path: Path) -> int | None:
    """The round that a checkpoint's file names, unchecked; None if it names none."""
    try:
        return int(read_header(path).metadata["round"])
    except (OSError, KeyError, ValueError):
        return None


def load_checkpoint(path: Path) -> Checkpoint:
    """Reads a checkpoint back, checking structure, mask digest and `SHA256SUMS`.

    Raises:
        CheckpointError: If it is missing, damaged, or its mask is not the one it names.
    """
    try:
        check_sum(path)
        meta, tensors = read_tensors(path)
    except (OSError, TensorFileError) as error:
        raise CheckpointError(
            f"{path} is not a readable checkpoint: {error}"
        ) from error
    if meta.get("format") != f"flash-edge checkpoint {FORMAT}":
        raise CheckpointError(
            f"{path} is not a flash-edge checkpoint of format {FORMAT} "
            f"(it says {meta.get('format')!r})"
        )
    try:
        layers = tuple(
            LayerShape(name, tuple(shape), groups)
            for name, shape, groups in json.loads(meta["layers"])
        )
        csr = {
            s.name: CsrTensor(
                (s.shape[0], s.numel // s.shape[0]),
                tensors[f"sparse/{s.name}/indptr"],
                tensors[f"sparse/{s.name}/indices"],
                tensors[f"sparse/{s.name}/values"],
            )
            for s in layers
        }
        mask = Mask({s.name: csr[s.name].pattern().reshape(s.shape) for s in layers})
        if mask.digest.hex() != meta["mask_digest"]:
            raise CheckpointError(f"{path}: the mask does not have the digest it names")
        return Checkpoint(
            task=meta["task"],
            round_no=int(meta["round"]),
            layers=layers,
            mask=mask,
            values={name: tensor.values for name, tensor in csr.items()},
            dense={n: tensors[f"dense/{n}"] for n in json.loads(meta["dense"])},
            metrics=floats_from_json(meta["metrics"]),
            memory={
                quantity: {n: tensors[f"state/{quantity}/{n}"] for n in names}
                for quantity, names in json.loads(meta.get("state", "{}")).items()
            },
            gain=float(meta.get("gain", "0")),
            personal=tuple(map(str, json.loads(meta.get("personal", "[]")))),
            adapters={
                str(n): int(rank)
                for n, rank in json.loads(meta.get("adapters", "{}")).items()
            },
            privacy=meta.get("privacy", ""),
        )
    except (
        AttributeError,
        KeyError,
        MemoryError,  # damage in a shape can ask for anything
        OverflowError,
        TypeError,
        ValueError,
        SparsityError,
    ) as error:
        raise CheckpointError(f"{path} is damaged: {error}") from error


def replace_file(path: Path, content: bytes, *, mode: int = 0o666) -> None:
    """Writes a file durably: temporary beside it, fsync, rename, fsync of the folder.

    Args:
        path: The file; its folder is made if missing.
        content: All of it.
        mode: Its permissions, less the umask; secrets take 0o600.

    Raises:
        CheckpointError: If the folder cannot be written, for example a full disk, or
            the path is a folder, or a device or pipe, which a rename would replace.
    """
    _replace({path: content}, mode)


def _replace(files: Mapping[Path, bytes], mode: int = 0o666) -> None:
    """As `replace_file`, for files of one folder whose names need one sync."""
    # The thread's id too: two threads may replace the same file.
    mine = f"{os.getpid()}-{threading.get_ident()}"
    drafts: dict[Path, Path] = {}
    path = next(iter(files))  # for the message
    try:
        for path, content in files.items():
            if path.exists() and not path.is_file():
                kind = "a folder" if path.is_dir() else "no regular file"
                raise CheckpointError(
                    f"{path} could not be written: it is {kind}",
                    remedy="Name a file that is there, or a new one.",
                )
            path.parent.mkdir(parents=True, exist_ok=True)
            drafts[path] = draft = path.with_name(f".{path.name}.{mine}.tmp")
            draft.unlink(missing_ok=True)
            opened = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
            with os.fdopen(opened, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        for path, draft in drafts.items():
            draft.replace(path)
        sync(path.parent)
    except OSError as error:
        for draft in drafts.values():
            with contextlib.suppress(OSError):
                draft.unlink()
        raise CheckpointError(
            f"{path} could not be written: {error}",
            remedy=disk_remedy(error),
        ) from error


def remove_drafts(*folders: Path) -> None:
    """Deletes what killed processes began in folders by `replace_file`.

    Args:
        folders: That this process alone writes; one that is missing has none.
    """
    for folder in folders:
        for draft in folder.glob(".*-*.tmp"):
            with contextlib.suppress(OSError):  # it takes room, and harms nobody
                draft.unlink()


def sync(path: Path) -> None:
    """Wait until a file's content, or a folder's names, are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def replace_listed(path: Path, content: bytes, digest: str) -> None:
    """As `replace_file`, and lists the file's digest in `SHA256SUMS` beside it.

    Raises:
        CheckpointError: If the folder cannot be written.
    """
    listed, sums = sums_of(path), path.parent / SUMS
    if not (listed or path.exists()):  # a crash may leave any one of the two
        _replace({sums: lines_with(path, digest, alone=False), path: content})
        return
    if listed != {digest}:
        replace_file(sums, lines_with(path, digest, alone=False))
    replace_file(path, content)
    if listed - {digest}:
        replace_file(sums, lines_with(path, digest, alone=True))
