"""`flash-export`: parses, calls one function, prints its report."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import typer

from edge_sdk.checkpoint import round_of
from edge_sdk.errors import EdgeError, ExportError
from edge_sdk.infer.bundle import MANIFEST, read_manifest
from edge_sdk.infer.run_key import run_folder, run_name
from edge_sdk.infer.signature import check_signature, read_public_key
from edge_sdk.json_text import to_json
from edge_sdk.terminal import Json, add, exit_codes, in_utf8, log_from_now_on
from edge_sdk.terminal.utf8 import echo
from export.api import Model, build
from export.bundle import FORMATS, make_bundle
from export.checks.tolerance import ACCURACY_POINTS, LOSS_PERCENT
from export.extras import require
from export.measure.timing import bench, machine
from export.places import default_file
from export.recheck import verify, verify_bundle
from export.report import Report

__all__ = ["app", "main"]

app = typer.Typer(
    help="Export sparse models to checked files.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

Data = Annotated[
    Path | None,
    typer.Option(help="Folder of the task's evaluation examples (with eval.npz)."),
]
Points = Annotated[
    float,
    typer.Option(
        "--accuracy-points", help="Percentage points a lossy format may lose."
    ),
]

Growth = Annotated[
    float,
    typer.Option(
        "--loss-percent",
        help="By how much a lossy format's loss may grow where outputs are no answers.",
    ),
]


def format_names(begun: str) -> list[str]:
    """Completions of a format's name for the shell."""
    from export.targets.table import TARGETS  # noqa: PLC0415 - imports onnx

    return [name for name in TARGETS if name.startswith(begun)]


def build_command(
    checkpoint: Annotated[
        Path | None,
        typer.Argument(help="A .safetensors checkpoint; none with --module."),
    ] = None,
    *,
    module: Annotated[
        str,
        typer.Option(
            help="package.module:object in the place of a checkpoint: a torch module, "
            "or what makes one."
        ),
    ] = "",
    input_shape: Annotated[
        str,
        typer.Option(
            help="Of a module's example, without the batch axis: 3,32,32.",
        ),
    ] = "",
    weights: Annotated[
        Path | None,
        typer.Option(help="File of a module's state_dict (.pt, .safetensors)."),
    ] = None,
    calibration: Annotated[
        Path | None,
        typer.Option(
            help="File with a module's example inputs (.npy), or inputs and targets "
            "(.npz).",
        ),
    ] = None,
    format: Annotated[  # noqa: A002 - the option's name
        str,
        typer.Option(
            help="onnx-sparse, onnx, onnx-fp16, onnx-int8, ort, native, native-int8; "
            "with their extras executorch, litert, coreml.",
            autocompletion=format_names,
        ),
    ] = "onnx-sparse",
    out: Annotated[
        Path | None,
        typer.Option(
            help="File to write; default beside CHECKPOINT, of a module here."
        ),
    ] = None,
    batch: Annotated[
        Literal["1", "dynamic"],
        typer.Option(help="Fixed batch of 1 (phones need it), or dynamic."),
    ] = "1",
    data: Data = None,
    accuracy_points: Points = ACCURACY_POINTS,
    loss_percent: Growth = LOSS_PERCENT,
    as_json: Json = False,
) -> None:
    """Export CHECKPOINT or a module, check the result, and only then write it."""
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
        _log_about(checkpoint)
        model: Model = checkpoint
        shape = examples = None
    else:
        require()
        from export.modules import named  # noqa: PLC0415 - torch

        model = named.load_module(module, weights)
        shape = named.read_shape(input_shape)
        examples = None if calibration is None else named.read_examples(calibration)
    name = module.partition(":")[2].rpartition(".")[2].lower() or "model"
    report = build(
        model,
        format=format,
        out=default_file(name, format) if out is None and module else out,
        input_shape=shape,
        calibration=examples,
        name=name,
        batch=batch,
        data=data,
        accuracy_points=accuracy_points,
        loss_percent=loss_percent,
    )
    _show(report, as_json=as_json)


def verify_command(
    file: Annotated[Path, typer.Argument(help="A file or a bundle that build wrote.")],
    *,
    checkpoint: Annotated[
        Path | None,
        typer.Option(help="The checkpoint a file comes from; bundles need none."),
    ] = None,
    data: Data = None,
    accuracy_points: Points = ACCURACY_POINTS,
    loss_percent: Growth = LOSS_PERCENT,
    key: Annotated[
        Path | None,
        typer.Option(help="Public key (PEM) that must have signed it."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Run every gate again on FILE; on a bundle, digests and the golden example."""
    _log_about(file if checkpoint is None else checkpoint)
    if file.is_dir():
        trusted = None if key is None else read_public_key(key)
        differences = verify_bundle(file, trusted=trusted)
        signer = check_signature(file, (file / MANIFEST).read_bytes())
        run = read_manifest(file).get("run")
        if as_json:
            signed = None if signer is None else signer.hex()
            values = {"signer": signed, "run": run, "differences": differences}
            echo(to_json(values), json=True)
            return
        echo(_signed_by(signer, trusted, run))
        for name, error in differences.items():
            echo(f"{name}: golden outputs match, largest difference {error:.1e}")
        return
    if checkpoint is None:
        raise ExportError(
            f"{file} is a single file: name the checkpoint it was built from",
            remedy=f"flash-export verify {file} --checkpoint CHECKPOINT",
        )
    report = verify(
        file,
        checkpoint,
        data=data,
        accuracy_points=accuracy_points,
        loss_percent=loss_percent,
    )
    _show(report, as_json=as_json)


def bundle_command(
    checkpoint: Annotated[Path, typer.Argument(help="A .safetensors checkpoint.")],
    *,
    out: Annotated[Path, typer.Option(help="Folder to make.")],
    format: Annotated[  # noqa: A002
        list[str] | None,
        typer.Option(help="May be given more than once.", autocompletion=format_names),
    ] = None,
    data: Data = None,
    accuracy_points: Points = ACCURACY_POINTS,
    loss_percent: Growth = LOSS_PERCENT,
    key: Annotated[
        Path | None,
        typer.Option(
            help="Ed25519 private key (PEM) that signs it; default: that of the run "
            "whose folder CHECKPOINT lies in."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Write a folder with models, labels, a golden example and a manifest."""
    _log_about(checkpoint)
    manifest = make_bundle(
        checkpoint,
        out,
        formats=format or FORMATS,
        data=data,
        accuracy_points=accuracy_points,
        loss_percent=loss_percent,
        key=key,
    )
    if as_json:
        echo(to_json(manifest, indent=2), json=True)
        return
    echo(f"{out}: {len(manifest['files'])} files, task {manifest['task']}")
    if "run" in manifest:
        echo(f"signed with the key of run {manifest['run']}")
    for name, entry in manifest["models"].items():
        ratio = f"{entry['size_ratio']:.1f}x smaller than dense"
        echo(f"{name}: {entry['bytes']:,} bytes, {ratio}")
    left_out = {
        n: w
        for e in manifest["models"].values()
        for n, w in e.get("left_out", {}).items()
    }
    for name, why in left_out.items():
        echo(f"{name} is left out: {why}")


def bench_command(
    bundle: Annotated[Path, typer.Argument(help="A bundle's folder.")],
    *,
    threads: Annotated[int, typer.Option(help="Threads per model.")] = 1,
    seconds: Annotated[float, typer.Option(help="Seconds per model.")] = 1.0,
    as_json: Json = False,
) -> None:
    """Time every model of BUNDLE beside dense onnxruntime, one example at a time."""
    _log_about(bundle)
    timings = bench(bundle, threads=threads, seconds=seconds)
    if as_json:
        values = {"machine": machine(), "timings": [asdict(t) for t in timings]}
        echo(to_json(values, indent=2), json=True)
        return
    echo(f"{machine()['processor']}, {threads} thread(s), batch 1")
    echo(f"{'model':20}{'p50 ms':>10}{'p90 ms':>10}{'load ms':>10}{'MiB':>8}")
    for t in timings:
        row = f"{t.name:20}{t.p50_ms:10.3f}{t.p90_ms:10.3f}{t.load_ms:10.1f}"
        echo(f"{row}{t.peak_rss_mib:8.1f}")


def _log_about(path: Path) -> None:
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


def _signed_by(signer: bytes | None, trusted: bytes | None, run: str | None) -> str:
    if signer is None:
        return "unsigned: anyone with write access to the folder could have changed it"
    known = "the key you named" if trusted else "not compared: name its key with --key"
    said = "" if run is None else f", says it is of run {run}"
    return f"signed by {signer.hex()} ({known}){said}"


def _show(report: Report, *, as_json: bool) -> None:
    text = report.to_json() if as_json else "\n".join(report.lines())
    echo(text, json=as_json)


add(app, build_command, "build")
add(app, verify_command, "verify")
add(app, bundle_command, "bundle")
add(app, bench_command, "bench")
add(app, exit_codes)


def main() -> None:
    """Entry point of the console script."""
    in_utf8()
    app()


if __name__ == "__main__":
    main()
