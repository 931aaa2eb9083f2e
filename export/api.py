"""`build`: checkpoints and modules to checked files; `formats`: what there is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, overload

from edge_sdk.checkpoint import Checkpoint, load_checkpoint
from edge_sdk.errors import ExportError
from edge_sdk.infer.run_key import run_folder
from export.builder import make_all, written
from export.checks.tolerance import ACCURACY_POINTS, LOSS_PERCENT, Tolerance
from export.extras import require
from export.places import (
    Layer,
    beside,
    check_name,
    default_file,
    folder_of,
    path_of,
    suffix_of,
    with_layer,
)
from export.report import Report

if TYPE_CHECKING:
    from torch import nn

    from export.modules.shapes import InputShape
    from export.rebuild import Source

__all__ = [
    "Exported",
    "Model",
    "build",
    "build_source",
    "formats",
    "look_beside",
    "source_of",
]

Batch: TypeAlias = Literal["1", "dynamic"]
Model: TypeAlias = "Checkpoint | nn.Module | Source | Path | str"


@dataclass(frozen=True)
class Exported(Mapping[str, Report]):
    """The files of one model: format to report, in the order asked for.

    Attributes:
        folder: Where they lie; None where nothing was to be written.
        reports: Format to what was measured; every gate of every format passed.
    """

    folder: Path | None
    reports: Mapping[str, Report] = field(repr=False)

    def __getitem__(self, key: str) -> Report:
        return self.reports[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.reports)

    def __len__(self) -> int:
        return len(self.reports)

    @property
    def files(self) -> dict[str, Path]:
        """Format to the file written; empty where none was."""
        return {name: Path(r.file) for name, r in self.reports.items() if r.file}

    @property
    def sizes(self) -> dict[str, int]:
        """Format to bytes."""
        return {name: r.file_bytes for name, r in self.reports.items()}

    @property
    def gates(self) -> dict[str, dict[str, str]]:
        """Format to the gates that it passed, each with its figure in words."""
        return {name: r.findings.gates for name, r in self.reports.items()}

    def __str__(self) -> str:
        return "\n\n".join("\n".join(r.lines()) for r in self.reports.values())


@overload
def build(
    model: Model,
    out: Path | str | None = ...,
    *,
    formats: Sequence[str] | str,
    input_shape: Sequence[int] | int | None = ...,
    calibration: Any = ...,
    name: str = ...,
    labels: Sequence[str] = ...,
    batch: Batch = ...,
    data: Path | str | None = ...,
    accuracy_points: float = ...,
    loss_percent: float = ...,
    compress: Layer | None = ...,
) -> Exported: ...
@overload
def build(
    model: Model,
    out: Path | str | None = ...,
    *,
    format: str = ...,
    input_shape: Sequence[int] | int | None = ...,
    calibration: Any = ...,
    name: str = ...,
    labels: Sequence[str] = ...,
    batch: Batch = ...,
    data: Path | str | None = ...,
    accuracy_points: float = ...,
    loss_percent: float = ...,
    compress: Layer | None = ...,
) -> Report: ...
def build(
    model: Model,
    out: Path | str | None = None,
    *,
    format: str = "onnx-sparse",  # noqa: A002 - the word of the command line
    formats: Sequence[str] | str | None = None,
    input_shape: InputShape | None = None,
    calibration: Any = None,
    name: str = "model",
    labels: Sequence[str] = (),
    batch: Batch = "1",
    data: Path | str | None = None,
    accuracy_points: float = ACCURACY_POINTS,
    loss_percent: float = LOSS_PERCENT,
    compress: Layer | None = None,
) -> Exported | Report:
    """Exports a model, checks every file, and only then writes them.

    Args:
        model: A pruned ``torch.nn.Module``, with or without what
            ``torch.nn.utils.prune`` leaves in it; it stays as it is. Or a checkpoint,
            or the path of its file.
        out: With `formats` the folder; with `format` the file. By default a file beside
            the checkpoint's; otherwise nothing is written, only reported.
        format: One of `export.formats`.
        formats: Several of them; all are written, or none.
        input_shape: Of a module: one prepared example without the batch axis; of
            several inputs one for each, in order or by name. None: `calibration`'s.
        calibration: Examples to compare on, which rounded formats are calibrated by:
            `edge_sdk.Examples`, prepared inputs, a pair (inputs, targets), a torch
            ``Dataset`` or ``DataLoader``; several inputs in a tuple or a dictionary.
            None: seeded random inputs.
        name: Of a module, in reports and files.
        labels: Of a module: class names in the order of the outputs.
        batch: "1" fixes the batch; "dynamic" leaves it free.
        data: Folder with evaluation examples: a task's, or a module's ``eval.npz``.
        accuracy_points: Percentage points that a lossy format may lose.
        loss_percent: By how much its loss may grow where outputs are no answers.
        compress: "zstd" puts each file into a zstd layer, ``.zst`` after its name.

    Returns:
        With `formats` their files, sizes and gates; with `format` the one report.

    Raises:
        CheckpointError: If the checkpoint is damaged or not of the task's model, or a
            file cannot be written.
        DataError: If a format needs examples and there are none, or those given do not
            fit.
        DependencyError: If the extra ``export`` is not installed.
        ExportError: If the model cannot be exported or a gate fails; nothing is
            written.
    """
    require()
    wanted = _wanted(format, formats)
    tolerance = Tolerance(accuracy_points, loss_percent)
    source, examples = source_of(
        model,
        input_shape=input_shape,
        calibration=calibration,
        name=name,
        labels=labels,
        data=data,
        wanted=wanted,
    )
    folder, files = None, dict[str, Path | None]()
    if formats is None:
        files[format] = beside(model, format) if out is None else path_of(out)
    elif out is not None:
        folder = folder_of(out, source.task, wanted)
        files = {key: folder / default_file(source.task, key) for key in wanted}
    made = make_all(
        source,
        wanted,
        batch=batch,
        data=examples,
        tolerance=tolerance,
        compress=compress,
    )
    files = {k: f and with_layer(f, compress) for k, f in files.items()}
    reports = {key: written(*one, files.get(key)) for key, one in made.items()}
    return reports[format] if formats is None else Exported(folder, reports)


build_source = build  # the name of 0.1.0 where a `Source` is given


def source_of(
    model: Model,
    *,
    input_shape: InputShape | None = None,
    calibration: Any = None,
    name: str = "model",
    labels: Sequence[str] = (),
    data: Path | str | None = None,
    wanted: Sequence[str] = (),
) -> tuple[Source, Path | None]:
    """Make the source to export from anything that `build` takes.

    Args:
        model: As `build` takes it.
        input_shape: As `build` takes it.
        calibration: As `build` takes it.
        name: As `build` takes it.
        labels: As `build` takes it.
        data: As `build` takes it.
        wanted: Formats that have to exist; looked at before anything takes time.

    Returns:
        The source, and the folder of its task's examples; a module's are in it.

    Raises:
        EdgeError: As `build`.
    """
    from export.modules import from_module  # noqa: PLC0415
    from export.modules.given_inputs import task_inputs  # noqa: PLC0415 - torch
    from export.modules.named import read_examples  # noqa: PLC0415
    from export.rebuild import Source, from_checkpoint  # noqa: PLC0415

    for one in wanted:
        suffix_of(one)
    folder = None if data is None else Path(data)
    if isinstance(model, Source):
        return model, folder
    if isinstance(model, str | Path):
        look_beside(Path(model))
        model = load_checkpoint(Path(model))
    if not isinstance(model, Checkpoint):
        check_name(name)
        if folder is not None and calibration is None:
            calibration = read_examples(folder)
        source = from_module(
            model, input_shape, name=name, labels=labels, calibration=calibration
        )
        return source, None
    source = from_checkpoint(model)
    shape: Any = (input_shape,) if isinstance(input_shape, int) else input_shape
    if shape is not None and tuple(shape) != source.input_shape:
        raise ExportError(
            f"input_shape is {tuple(shape)}, task {source.task} has "
            f"{source.input_shape}",
            remedy="Leave it out: a checkpoint's task says it.",
        )
    if calibration is not None and source.contract is not None:
        source = replace(source, given=task_inputs(source.contract, calibration))
    return source, folder


def look_beside(checkpoint: Path) -> None:
    """Lets the task of a checkpoint's file be found where its run's commands find it.

    That is beside the settings of the run's folder, else beside the file itself.
    """
    from edge_sdk.tasks.task import find_tasks_beside  # noqa: PLC0415 - torch

    find_tasks_beside(run_folder(checkpoint) or checkpoint.parent)


def formats() -> dict[str, str]:
    """Every format's name, with what it is in one line.

    Raises:
        DependencyError: If the extra ``export`` is not installed.
    """
    require()
    from export.targets.table import TARGETS  # noqa: PLC0415 - imports onnx

    return {name: target.summary for name, target in TARGETS.items()}


def _wanted(one: str, several: Sequence[str] | str | None) -> tuple[str, ...]:
    if several is None:
        return (one,)
    try:
        found = (several,) if isinstance(several, str) else tuple(several)
    except TypeError:
        found = (several,)  # type: ignore[assignment]  # refused as no name
    if not found:
        raise ExportError(
            "formats is empty", remedy=f"Name one: {', '.join(formats())}."
        )
    return found
