"""The one place that imports torchvision, also beside a CPU build of torch."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from edge_sdk.errors import DataError, DependencyError
from edge_sdk.tasks.task import Examples

if TYPE_CHECKING:
    import torch

__all__ = ["examples_of", "load_torchvision"]

_PARTS = ("datasets", "models", "transforms", "transforms.v2")

# Kept for the life of the process: a library that is collected takes its schemas along.
_schemas: list[torch.library.Library] = []


def load_torchvision() -> ModuleType:
    """torchvision, with ``datasets``, ``models`` and ``transforms`` (v1, v2) imported.

    torchvision's wheel for x86 is built against CUDA torch; beside CPU torch its
    operators do not load and its import fails on registering them. With their schemas
    defined first the three parts work; ``nms``, deformable convolution, detection
    models and ``torchvision.io`` still do not.

    Raises:
        DependencyError: If it is not installed, or does not fit the installed torch.
    """
    if importlib.util.find_spec("torchvision") is None:
        raise DependencyError(
            "torchvision is not installed",
            remedy="Run `pip install 'flash-edge[vision]'`.",
        )
    try:
        return _import()
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise _unfit(error) from error
    except (ImportError, OSError, AttributeError) as error:
        raise _unfit(error) from error
    # Half of it is imported by now; start again with the operators known.
    for name in [n for n in sys.modules if n.partition(".")[0] == "torchvision"]:
        del sys.modules[name]
    _define_operators()
    try:
        return _import()
    except (ImportError, OSError, AttributeError, RuntimeError) as error:
        raise _unfit(error) from error


def examples_of(dataset: Any) -> Examples:
    """A torchvision data set held in memory (MNIST, CIFAR), as uint8 (n, C, H, W).

    Args:
        dataset: Anything with `data`, (n, H, W) or (n, H, W, C), and `targets`;
            torchvision ships no types.

    Raises:
        DataError: If it has no such arrays.
    """
    try:
        images, targets = np.asarray(dataset.data), np.asarray(dataset.targets)
    except AttributeError as error:
        raise DataError(
            f"{type(dataset).__name__} does not hold its examples in memory: {error}",
            remedy="Collect them into arrays and build Examples from those.",
        ) from error
    if images.ndim == 3:
        return Examples(images[:, None], targets.astype(np.int64))
    if images.ndim != 4:
        raise DataError(f"images have shape {images.shape}, not (n, H, W[, C])")
    channels_first = np.ascontiguousarray(images.transpose(0, 3, 1, 2))
    return Examples(channels_first, targets.astype(np.int64))


def _import() -> ModuleType:
    package = importlib.import_module("torchvision")
    for part in _PARTS:
        importlib.import_module(f"torchvision.{part}")
    return package


def _define_operators() -> None:
    import torch  # noqa: PLC0415 - the module must be importable without torch

    library = torch.library.Library(  # type: ignore[no-untyped-call]
        "torchvision", "DEF"
    )
    for name in ("nms", "qnms"):
        library.define(  # type: ignore[no-untyped-call]
            f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
        )
    _schemas.append(library)


def _unfit(error: Exception) -> DependencyError:
    return DependencyError(
        f"torchvision cannot be imported beside this torch: {error}",
        remedy="Install the torchvision release made for it: `pip install -U torch "
        "torchvision`.",
    )
