"""File of a state dict that a run begins at: read, and checked against the model."""

from __future__ import annotations

import logging
import zipfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from edge_sdk.errors import DependencyError, TaskError

__all__ = ["start_state"]

log = logging.getLogger(__name__)

_SHOWN = 4
_UNREADABLE = "it is damaged, or not of safetensors or torch.save"
_WRITE = "Write it by torch.save(model.state_dict(), path), or as .safetensors."


def start_state(
    path: Path | str,
    model: Mapping[str, NDArray[Any]],
    new: Collection[str] = (),
) -> dict[str, NDArray[Any]]:
    """The entries of a start file, in the dtypes of the model's own.

    What the file does not have begins as the model makes it; a warning names it.

    Args:
        path: A ``.safetensors`` file, or what torch.save wrote of a state dict.
        model: The model's ``state_dict``.
        new: Entries that the file need not have.

    Raises:
        TaskError: If it cannot be read, has entries that the model does not have, none
            that it has, or some of other shapes or with values that are not finite.
    """
    found = _read(Path(path))
    surplus = [n for n in found if n not in model]
    missing = [n for n in model if n not in found and n not in new]
    if surplus or not found:
        told = f"has {_some(surplus)}, which the model does not have" if surplus else ""
        lacks = f"does not have {_some(missing)} of the model" if missing else ""
        raise TaskError(
            f"start file {path} {' and '.join(filter(None, (told, lacks)))}",
            remedy="Delete from its state dict what the model does not have, and name "
            "the others as the model does; what is missing begins as the model makes "
            "it.",
        )
    state = {}
    for name, array in found.items():
        own = model[name]
        if array.shape != own.shape:
            raise TaskError(
                f"start file {path}: entry {name} has shape {array.shape}, the model's "
                f"has {own.shape}",
                remedy="Delete the entry from the file's state dict to begin it as the "
                "model makes it, or change the model.",
            )
        if array.dtype.kind not in "biuf" or (array.dtype.kind == "f") != (
            own.dtype.kind == "f"
        ):
            raise TaskError(
                f"start file {path}: entry {name} is {array.dtype}, the model's is "
                f"{own.dtype}",
                remedy="Convert it in the file's state dict.",
            )
        if not np.isfinite(array).all():
            raise TaskError(
                f"start file {path}: entry {name} holds a value that is not finite",
                remedy="Take another file: that training had diverged.",
            )
        state[name] = np.array(array, own.dtype)
    if missing:
        log.warning("start file %s does not have %s", path, _some(missing))
    return state


def _read(path: Path) -> dict[str, NDArray[Any]]:
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file  # noqa: PLC0415 - only for a file

            raw: Any = load_file(path)
        else:
            raw = torch.load(path, map_location="cpu", weights_only=True)
    except ImportError as error:
        raise DependencyError(
            f"start file {path} is read by the package safetensors",
            remedy="pip install safetensors, or write the file by torch.save.",
        ) from error
    except OSError as error:
        raise TaskError(
            f"start file {path} cannot be read: {error.strerror or error}",
            remedy="Correct its path, or its permissions.",
        ) from error
    except Exception as error:  # what a file of another kind provokes differs
        whole = zipfile.is_zipfile(path)  # as torch.save writes
        raise TaskError(
            f"start file {path} cannot be read: "
            + ("it holds objects, not only a state dict" if whole else _UNREADABLE),
            remedy=_WRITE,
        ) from error
    inner = raw.get("state_dict") if isinstance(raw, Mapping) else None
    raw = inner if _is_state(inner) else raw
    if not _is_state(raw):
        parts = raw.items() if isinstance(raw, Mapping) else ()
        within = [name for name, part in parts if _is_state(part) and part]
        raise TaskError(
            f"start file {path} holds no state dict"
            + (f" but under {within[0]!r}" if within else ""),
            remedy="Write that one alone, by torch.save." if within else _WRITE,
        )
    return {str(n): _array(t) for n, t in raw.items()}


def _is_state(found: object) -> bool:
    return isinstance(found, Mapping) and all(
        isinstance(v, torch.Tensor) for v in found.values()
    )


def _array(tensor: torch.Tensor) -> NDArray[Any]:
    wide = tensor.float() if tensor.dtype == torch.bfloat16 else tensor
    return np.asarray(wide.detach().cpu().numpy())


def _some(names: list[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
