"""Preparation of an image or array file as a model's input, by ``preprocess.json``."""

from __future__ import annotations

import json
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_sdk.datasets.files import array_damage
from edge_sdk.errors import DataError, DependencyError, ExportError
from edge_sdk.infer.input_parts import InputPart, joined_inputs, parts_of

__all__ = ["Preparation", "read_examples"]

_IMAGES = {".png", ".jpg", ".jpeg", ".bmp"}


@dataclass(frozen=True, eq=False)
class Preparation:
    """Raw example to input: ``(raw / range - mean) / std``, one mean per channel.

    Attributes:
        kind: "affine", "custom" (only the task's own code can), or "none: ...".
        input_shape: One input, without the batch axis.
        raw_shape: One raw example; () where the kind is not affine.
        layout: Of the raw example: CHW, HW or HWC.
        high: What raw values are divided by.
        mean: float32 (channels,).
        std: float32 (channels,).
        inputs: Of a model of several inputs, in order.
    """

    kind: str
    input_shape: tuple[int, ...]
    raw_shape: tuple[int, ...] = ()
    layout: str = ""
    high: float = 1.0
    mean: NDArray[np.float32] | None = None
    std: NDArray[np.float32] | None = None
    inputs: tuple[InputPart, ...] = ()

    @classmethod
    def read(cls, path: Path) -> Preparation:
        """Reads the file.

        Raises:
            ExportError: If it is missing or damaged.
        """
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            shape = tuple(int(v) for v in found["model_input"]["shape"][1:])
            parts = parts_of(found["model_input"].get("inputs"), shape)
            if found["kind"] != "affine":
                return cls(str(found["kind"]), shape, inputs=parts)
            return cls(
                "affine",
                shape,
                tuple(int(v) for v in found["raw"]["shape"]),
                str(found["raw"]["layout"]),
                float(found["range"][1]),
                np.asarray(found["mean"], np.float32),
                np.asarray(found["std"], np.float32),
            )
        except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
            raise ExportError(f"{path} is damaged: {error}") from error

    def __call__(self, examples: NDArray[Any]) -> NDArray[np.float32]:
        """Inputs float32 (n, *input_shape) of raw examples (n, *raw_shape).

        float32 examples of the model's own shape are taken as prepared already.

        Raises:
            DataError: If the shape fits neither.
        """
        if examples.dtype == np.float32 and examples.shape[1:] == self.input_shape:
            return np.ascontiguousarray(examples)
        if self.kind != "affine" or self.mean is None or self.std is None:
            raise DataError(
                f"{examples.dtype} examples {examples.shape[1:]} cannot be prepared: "
                f"preprocess.json says {self.kind!r}",
                remedy=f"Give float32 inputs of shape {self.input_shape}, prepared.",
            )
        if examples.shape[1:] != self.raw_shape:
            raise DataError(
                f"examples have shape {examples.shape[1:]}; "
                f"the model takes {self.raw_shape} ({self.layout})"
            )
        values = examples.astype(np.float32)
        if self.layout == "HW":
            values = values[:, None]
        elif self.layout == "HWC":
            values = np.moveaxis(values, -1, 1)
        shape = (1, -1, 1, 1)
        prepared = values / self.high - self.mean.reshape(shape)
        result: NDArray[np.float32] = np.ascontiguousarray(
            prepared / self.std.reshape(shape), np.float32
        )
        return result


def read_examples(path: Path, preparation: Preparation) -> NDArray[Any]:
    """Examples of a file: ``.npy``, ``.npz`` (`inputs`, or its only array), an image.

    Of a model of several inputs an ``.npz`` with an array by the name of each.

    One example without its batch axis becomes a batch of one. Images are resized to
    what the model takes, and read as gray or colour as it has one or three channels.

    Raises:
        DataError: If the file cannot be read or is of another kind.
        DependencyError: If an image needs Pillow and it is not installed.
    """
    try:
        if path.suffix in {".npy", ".npz"}:
            array = _array(path, preparation)
        elif path.suffix.lower() in _IMAGES:
            array = _image(path, preparation)
        else:
            raise DataError(
                f"{path} is no .npy, .npz or image",
                remedy=f"Images: {', '.join(sorted(_IMAGES))}.",
            )
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{path} cannot be read: {array_damage(error)}") from error
    if array.shape in {preparation.raw_shape, preparation.input_shape}:
        array = array[None]
    return np.asarray(array)


def _array(path: Path, preparation: Preparation) -> NDArray[Any]:
    # Opened here: np.load leaves a damaged zip open when given its path.
    with path.open("rb") as file:
        found = np.load(file, allow_pickle=False)
        if isinstance(found, np.ndarray):
            return found
        with found as arrays:
            if preparation.inputs and "inputs" not in arrays.files:
                return joined_inputs(dict(arrays), preparation.inputs, str(path))
            names = [n for n in arrays.files if n == "inputs"] or arrays.files
            if len(names) != 1:
                raise DataError(f"{path} has {names}; name one of them inputs")
            array: NDArray[Any] = arrays[names[0]]
            return array


def _image(path: Path, preparation: Preparation) -> NDArray[np.uint8]:
    """The image in the layout and size of a raw example."""
    try:
        from PIL import Image  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise DependencyError(
            f"reading {path} needs Pillow", remedy="pip install 'flash-edge[images]'"
        ) from error
    if preparation.kind != "affine" or preparation.high != 255.0:
        raise DataError(
            f"{path}: preprocess.json does not say how an image becomes an input",
            remedy="Prepare it as in training and save it as .npy.",
        )
    channels, height, width = preparation.input_shape
    with Image.open(path) as image:
        mode = "L" if channels == 1 else "RGB"
        pixels = np.asarray(image.convert(mode).resize((width, height)))
    if preparation.layout == "CHW":
        pixels = pixels[None] if channels == 1 else np.moveaxis(pixels, -1, 0)
    elif preparation.layout == "HWC" and channels == 1:
        pixels = pixels[:, :, None]
    return pixels
