"""Tiny-ImageNet in its own layout of folders and JPEG files."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge_sdk.errors import DataError, DependencyError
from edge_sdk.tasks.task import Examples

__all__ = ["read_tiny_imagenet"]


def read_tiny_imagenet(folder: Path) -> tuple[Examples, Examples]:
    """Tiny-ImageNet: uint8 (n, 3, 64, 64) and classes; training and validation.

    Args:
        folder: ``tiny-imagenet-200``: wnids.txt (a class per line, in order),
            ``train/<class>/images/*.JPEG``, ``val/images`` and
            ``val/val_annotations.txt`` (file, class and box, separated by tabs).

    Raises:
        DependencyError: If Pillow, which decodes the JPEG files, is not installed.
        DataError: If a file is missing, or no 64x64 image.
    """
    if importlib.util.find_spec("PIL") is None:
        raise DependencyError(
            "Pillow is not installed", remedy="Run `pip install 'flash-edge[vision]'`."
        )
    try:
        kinds = (folder / "wnids.txt").read_text("utf-8").split()
        told = (folder / "val" / "val_annotations.txt").read_text("utf-8")
    except OSError as error:
        raise DataError(f"{folder} is not tiny-imagenet-200: {error}") from error
    train = [
        (path, index)
        for index, kind in enumerate(kinds)
        for path in sorted((folder / "train" / kind / "images").glob("*.JPEG"))
    ]
    rows = [line.split("\t") for line in told.splitlines() if line]
    try:
        places = [(folder / "val" / "images" / r[0], kinds.index(r[1])) for r in rows]
    except (ValueError, IndexError) as error:
        raise DataError(f"{folder}/val/val_annotations.txt: {error}") from error
    return _examples(train, folder), _examples(places, folder)


def _examples(found: Sequence[tuple[Path, int]], folder: Path) -> Examples:
    if not found:
        raise DataError(f"{folder} holds no images")
    images = np.stack([_image(path) for path, _ in found])
    return Examples(images, np.array([kind for _, kind in found], np.int64))


def _image(path: Path) -> NDArray[np.uint8]:
    from PIL import Image  # noqa: PLC0415 - an extra

    try:
        with Image.open(path) as image:
            pixels: NDArray[np.uint8] = np.asarray(
                image.convert("RGB"), np.uint8
            )  # some are gray
    except OSError as error:
        raise DataError(f"{path} is not an image: {error}") from error
    if pixels.shape != (64, 64, 3):
        raise DataError(f"{path} has shape {pixels.shape}, not (64, 64, 3)")
    found: NDArray[np.uint8] = pixels.transpose(2, 0, 1)
    return found
