"""Options of `flash-export` that several commands have, and the model they name."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from edge_sdk.checkpoint import round_of
from edge_sdk.errors import EdgeError, ExportError
from edge_sdk.infer.bundle import read_manifest
from edge_sdk.infer.run_key import run_folder, run_name
from edge_sdk.terminal import log_from_now_on
from export.extras import require

__all__ = [
    "Calibration",
    "Compress",
    "Data",
    "Growth",
    "Module",
    "Points",
    "Shape",
    "Weights",
    "log_about",
    "named_model",
    "own_prints_aside",
]

Data = Annotated[
    Path | None,
    typer.Option(
        help="Folder of evaluation examples (with eval.npz): a task's, or a module's "
        "prepared inputs and targets."
    ),
]
Module = Annotated[
    str,
    typer.Option(
        help="package.module:object in the place of a checkpoint: a torch module, or "
        "what makes one."
    ),
]
Shape = Annotated[
    str,
    typer.Option(
        help="Of a module's example, without the batch axis: 3,32,32; --data says it, "
        "too. Of several inputs: '3,32,32;16'."
    ),
]
Weights = Annotated[
    Path | None,
    typer.Option(help="File of a module's state_dict (.pt, .safetensors)."),
]
Calibration = Annotated[
    Path | None,
    typer.Option(
        help="File with a module's example inputs (.npy), or inputs and targets (.npz)."
    ),
]
Points = Annotated[
    float,
    typer.Option(
        "--accuracy-points", help="Percentage points a lossy format may lose."
    ),
]

Compress = Annotated[
    Literal["zstd"] | None,
    typer.Option(help="Put a zstd layer around it; needs the extra zstd to be read."),
]

Growth = Annotated[
    float,
    typer.Option(
        "--loss-percent",
        help="By how much a lossy format's loss may grow where outputs are no answers.",
    ),
]


def named_model(
    checkpoint: Path | None,
    module: str,
    input_shape: str,
    weights: Path | None,
    calibration: Path | None,
    data: Path | None,
) -> dict[str, Any]:
    """The model that a command names, as arguments of `build`, `verify`, `make_bundle`.

    Raises:
        ExportError: If it names none, two, or options of the other kind.
    """
    if (checkpoint is None) == (not module):
        raise ExportError(
            "name a checkpoint, or a module with --module: one of the two",
            remedy="flash-export build --module my_model:model --input-shape 3,32,32",
        )
    if checkpoint is not None:
        if input_shape or weights is not None or calibration is not None:
            raise ExportError(
                "--input-shape, --weights and --calibration are a module's; a "
                "checkpoint's task says all of it",
                remedy="Leave them out; --data names a task's examples.",
            )
        log_about(checkpoint)
        return {"model": checkpoint, "data": data, "name": "model"}
    require()
    from export.modules import named  # noqa: PLC0415 - torch

    if calibration is not None and data is not None:
        raise ExportError(
            "--calibration and --data both give a module's examples",
            remedy="Give one of them: a file, or a folder with eval.npz.",
        )
    return {
        "model": named.load_module(module, weights),
        "input_shape": named.read_shape(input_shape),
        "calibration": None
        if calibration is None
        else named.read_examples(calibration),
        "data": data,
        "name": module.partition(":")[2].rpartition(".")[2].lower() or "model",
    }


@contextmanager
def own_prints_aside() -> Iterator[None]:
    """Lets a person's module print to stderr: a command's stdout is its report."""
    with redirect_stdout(sys.stderr):
        yield


def log_about(path: Path) -> None:
    """Put the run and round of a checkpoint or a bundle into log lines from now on.

    As far as they are known: what is wrong with `path` is for the command to say.
    """
    run, round_no = None, round_of(path)
    with suppress(EdgeError, KeyError):
        if path.is_dir():
            manifest = read_manifest(path)
            run, round_no = manifest.get("run"), manifest["round"]
        elif (folder := run_folder(path)) is not None:
            run = run_name(folder)
    log_from_now_on(run=run, round=round_no)
