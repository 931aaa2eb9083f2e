"""Module, weights, input shape and examples that a command line names."""

from __future__ import annotations

import pickle  # noqa: TID251 - for the name of its error alone
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn.utils import prune

from edge_sdk.datasets.files import array_damage
from edge_sdk.errors import ExportError, a_type
from edge_sdk.tasks.reference import load_object
from edge_sdk.tasks.user_errors import place_of

__all__ = ["load_module", "load_weights", "read_examples", "read_shape"]

_INSIDE = ("state_dict", "model_state_dict", "model", "net")  # of a training checkpoint


def load_module(reference: str, weights: Path | None = None) -> nn.Module:
    """The module named by ``package.module:object``, with the weights of a file.

    Args:
        reference: Names a module, or its class or a function that makes it.
        weights: A file of a ``state_dict``; None takes the module's own.

    Raises:
        ExportError: If there is no such object, making it fails, or the weights do not
            fit it.
    """
    if ":" not in reference:
        raise ExportError(
            f"module {reference!r} is not package.module:object",
            remedy="Name the file and the object in it: my_model:model for my_model.py "
            "of this folder.",
        )
    try:
        found = load_object(
            reference,
            object,
            what="module",
            wanted="a torch.nn.Module",
            error=ExportError,
        )
    except ExportError as error:
        raise ExportError(
            str(error),
            remedy="Name a file of this folder, or an installed package, and the "
            "object in it: my_model:model for my_model.py.",
        ) from error
    if not isinstance(found, nn.Module) and callable(found):
        try:
            found = found()
        except (Exception, SystemExit) as error:
            at = place_of(error)
            raise ExportError(
                f"calling {reference} raised {type(error).__name__}: {error}"
                + (f" ({at})" if at else ""),
                remedy="Name a module, or a function that makes one without arguments.",
            ) from error
    if not isinstance(found, nn.Module):
        raise ExportError(
            f"{reference} gives {a_type(found)}, not a torch.nn.Module",
            remedy="Name a module, or a function that makes one without arguments.",
        )
    if weights is not None:
        load_weights(found, weights)
    return found


def load_weights(model: nn.Module, file: Path) -> None:
    """Loads a file's ``state_dict`` in place, with the masks that pruning left in it.

    Raises:
        ExportError: If it cannot be read, is none, or does not fit the model.
    """
    state = _of_inner(_state(file), model)
    _check_kinds(state, model, file)
    masks = {}
    for key in [k for k in state if k.endswith("_mask")]:
        weight = key.removesuffix("_mask")
        if f"{weight}_orig" in state and weight in model.state_dict():
            masks[weight] = state.pop(key)
            state[weight] = state.pop(f"{weight}_orig")
    try:
        model.load_state_dict(state, strict=True)
    except RuntimeError as error:
        said = "; ".join(line.strip() for line in str(error).splitlines()[1:4])
        raise ExportError(
            f"{file} does not fit the module: {said or error}",
            remedy="Name the weights of this module, saved by "
            "torch.save(model.state_dict(), ...).",
        ) from error
    for weight, mask in masks.items():
        have = model.state_dict()[weight].shape
        if mask.shape != have:
            raise ExportError(
                f"{file} does not fit the module: {weight}_mask has shape "
                f"{tuple(mask.shape)}, the weight {tuple(have)}",
                remedy="Save the weights of the module that was pruned.",
            )
        prefix, _, name = weight.rpartition(".")
        prune.custom_from_mask(model.get_submodule(prefix), name, mask)  # type: ignore[no-untyped-call]


def _of_inner(state: dict[str, Any], model: nn.Module) -> dict[str, Any]:
    """Weights by the names of the model itself, out of what held it when saved.

    Wrappers put ``module.``, ``_orig_mod.``, ``net.`` before each name, some several.
    """
    own = list(model.state_dict())
    while True:
        first, dot, _ = next(iter(state)).partition(".")
        prefix = first + dot
        if not dot or not all(key.startswith(prefix) for key in state):
            return state
        if any(key.startswith(prefix) for key in own):
            return state
        state = {key.removeprefix(prefix): value for key, value in state.items()}


def _check_kinds(state: Mapping[str, Any], model: nn.Module, file: Path) -> None:
    """Refuses numbers that torch would cut to others as it copies them."""
    for key, tensor in model.state_dict().items():
        given = state.get(key, state.get(f"{key}_orig"))
        if not isinstance(given, torch.Tensor) or not isinstance(tensor, torch.Tensor):
            continue
        cut = given.is_complex() and not tensor.is_complex()
        if cut or given.is_floating_point() < tensor.is_floating_point():
            raise ExportError(
                f"{file} does not fit the module: {key} is {given.dtype}, the "
                f"module's is {tensor.dtype}",
                remedy="Save the weights before they are quantised or cast: "
                "torch.save(model.state_dict(), ...).",
            )


def _weights_in(found: Any) -> Mapping[str, Any] | None:
    """The ``state_dict`` in what was saved; None if there is none, or which is open."""
    if not isinstance(found, Mapping) or not found:
        return None
    tensors = all(isinstance(one, torch.Tensor) for one in found.values())
    if tensors and all(isinstance(name, str) for name in found):
        return found
    for key in _INSIDE:
        if (inner := _weights_in(found.get(key))) is not None:
            return inner
    held = [inner for one in found.values() if (inner := _weights_in(one)) is not None]
    return held[0] if len(held) == 1 else None


def _state(file: Path) -> dict[str, Any]:
    remedy = "Save the weights alone: torch.save(model.state_dict(), 'weights.pt')."
    try:
        if file.suffix == ".safetensors":
            return dict(load_file(file))
        _check_sums(file, remedy)
        # weights_only: a pickled object could run anything that its author liked
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of another pickle's protocol
            found = torch.load(file, map_location="cpu", weights_only=True)
    except ExportError:
        raise
    except OSError as error:
        raise ExportError(
            f"{file} cannot be read: {error}", remedy="Check the path."
        ) from error
    except pickle.UnpicklingError as error:
        raise ExportError(
            f"{file} is no file of weights: it holds Python objects, or is damaged",
            remedy=remedy,
        ) from error
    except Exception as error:
        said = str(error).strip().splitlines() or [""]
        kind = type(error).__name__
        reason = (
            "it is empty"
            if not file.stat().st_size
            else f"torch cannot read it ({kind}: {said[0][:200]})"
        )
        raise ExportError(
            f"{file} is no file of weights: {reason}", remedy=remedy
        ) from error
    if (inner := _weights_in(found)) is not None:
        return dict(inner)
    what = a_type(found)
    if isinstance(found, Mapping) and found:
        what += f" of {', '.join(map(str, list(found)[:8]))}"
    raise ExportError(f"{file} holds {what}, no weights", remedy=remedy)


def _sizes(given: str) -> tuple[int, ...]:
    return tuple(int(n) for n in re.split("[x, ]+", given.strip("()[] ,")))


def _check_sums(file: Path, remedy: str) -> None:
    """Refuses a file in which a bit was flipped: torch does not read the checksums."""
    if not zipfile.is_zipfile(file):  # of before torch 1.6, or none
        return
    with zipfile.ZipFile(file) as archive:
        damaged = archive.testzip()
    if damaged is not None:
        raise ExportError(
            f"{file} is damaged: the checksum of {damaged} in it is another",
            remedy=f"Copy it again. {remedy}",
        )


def read_shape(given: str) -> tuple[int, ...] | tuple[tuple[int, ...], ...] | None:
    """``3,32,32`` or ``3x32x32`` as sizes; several after ``;``; None of nothing."""
    if not given:
        return None
    try:
        if ";" in given:
            return tuple(_sizes(part) for part in given.split(";"))
        return _sizes(given)
    except ValueError:
        raise ExportError(
            f"--input-shape is {given!r}, not whole numbers",
            remedy="Give the shape of one example without the batch axis: 3,32,32; of "
            "several inputs '3,32,32;16'.",
        ) from None


def read_examples(file: Path) -> Any:
    """Read a file of inputs, or inputs and targets; of a folder its ``eval.npz``.

    Of several arrays besides targets a dictionary by their names.
    """
    file = file / "eval.npz" if file.is_dir() else file
    try:
        with file.open("rb") as opened:  # numpy leaves a damaged one open
            found = np.load(opened, allow_pickle=False)
            if isinstance(found, np.ndarray):
                return found
            with found:
                if len({*found.files} - {"targets"}) > 1:
                    return dict(found)
                if "inputs" not in found and {*found.files} - {"targets"}:
                    return dict(found)  # of one argument, by its name
                names = ("inputs", "targets") if "targets" in found else ("inputs",)
                arrays = tuple(found[name] for name in names)
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
        raise ExportError(
            f"{file} holds no example inputs: {array_damage(error)}",
            remedy="np.save('inputs.npy', inputs), or np.savez('examples.npz', "
            "inputs=..., targets=...).",
        ) from error
    return arrays if len(arrays) == 2 else arrays[0]
