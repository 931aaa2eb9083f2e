"""`flash-export`: parses, calls one function, prints its report."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import typer

from edge_sdk.errors import ExportError
from edge_sdk.infer.bundle import MANIFEST, read_manifest
from edge_sdk.infer.signature import check_signature, read_public_key
from edge_sdk.json_text import to_json
from edge_sdk.terminal import Json, add, exit_codes, run_program
from edge_sdk.terminal.utf8 import echo
from export.api import build
from export.bundle import FORMATS, make_bundle
from export.checks.tolerance import ACCURACY_POINTS, LOSS_PERCENT
from export.cli_options import (
    Calibration,
    Compress,
    Data,
    Growth,
    Module,
    Points,
    Shape,
    Weights,
    log_about,
    named_model,
    own_prints_aside,
)
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
    module: Module = "",
    input_shape: Shape = "",
    weights: Weights = None,
    calibration: Calibration = None,
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
    compress: Compress = None,
    data: Data = None,
    accuracy_points: Points = ACCURACY_POINTS,
    loss_percent: Growth = LOSS_PERCENT,
    as_json: Json = False,
) -> None:
    """Export CHECKPOINT or a module, check the result, and only then write it."""
    with own_prints_aside():
        given = named_model(checkpoint, module, input_shape, weights, calibration, data)
        name = given["name"]
        report = build(
            **given,
            format=format,
            out=default_file(name, format) if out is None and module else out,
            batch=batch,
            accuracy_points=accuracy_points,
            loss_percent=loss_percent,
            compress=compress,
        )
    _show(report, as_json=as_json)


def verify_command(
    file: Annotated[Path, typer.Argument(help="A file or a bundle that build wrote.")],
    *,
    checkpoint: Annotated[
        Path | None,
        typer.Option(help="The checkpoint a file comes from; bundles need none."),
    ] = None,
    module: Module = "",
    input_shape: Shape = "",
    weights: Weights = None,
    calibration: Calibration = None,
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
    log_about(file if checkpoint is None else checkpoint)
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
    if not file.exists():
        raise ExportError(
            f"{file} cannot be read: it is not there", remedy="Check the path."
        )
    if checkpoint is None and not module:
        raise ExportError(
            f"{file} is a single file: name the checkpoint or module that it was built "
            "from",
            remedy=f"flash-export verify {file} --checkpoint CHECKPOINT, or --module "
            "package.module:object.",
        )
    with own_prints_aside():
        report = verify(
            file,
            **named_model(checkpoint, module, input_shape, weights, calibration, data),
            accuracy_points=accuracy_points,
            loss_percent=loss_percent,
        )
    _show(report, as_json=as_json)


def bundle_command(
    checkpoint: Annotated[
        Path | None,
        typer.Argument(help="A .safetensors checkpoint; none with --module."),
    ] = None,
    *,
    out: Annotated[Path, typer.Option(help="Folder to make.")],
    module: Module = "",
    input_shape: Shape = "",
    weights: Weights = None,
    calibration: Calibration = None,
    format: Annotated[  # noqa: A002
        list[str] | None,
        typer.Option(help="May be given more than once.", autocompletion=format_names),
    ] = None,
    compress: Compress = None,
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
    with own_prints_aside():
        given = named_model(checkpoint, module, input_shape, weights, calibration, data)
        manifest = make_bundle(
            given.pop("model"),
            out,
            **given,
            formats=format or FORMATS,
            accuracy_points=accuracy_points,
            loss_percent=loss_percent,
            key=key,
            compress=compress,
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
    log_about(bundle)
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
    run_program(app)


if __name__ == "__main__":
    main()
