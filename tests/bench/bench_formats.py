"""Builds pruned models of other packages in five formats, and a table.

Run from the root of the project (`make bench-formats` installs the libraries):
    PYTHONPATH=tests python tests/bench/bench_formats.py --json FILE
        [--formats onnx,native-int8] [NAME ...]

Random weights, convolutions and linear layers pruned to a tenth, 64 x 64 pixels (models
of sound: as `architectures.py` says), through all gates; random inputs, half of which
calibrate. The JSON has sizes with a zstd layer, too. Rows are written as they are made:
what is in the JSON is not built again. Exit code 1 if a model is refused in a format.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from architectures import MODELS, made, shape_of
from numpy.typing import NDArray
from torch import nn

import export
from edge_sdk.errors import ExportError
from edge_sdk.infer.compressed import compressed
from edge_sdk.json_text import to_json
from export.report import Report

FORMATS = ("onnx", "onnx-sparse", "onnx-fp16", "onnx-int8", "native")
EXAMPLES = 64


def cell(report: Report) -> dict[str, Any]:
    """A format's figures: size, and distance of outputs from torch's."""
    drift, parity = report.findings.drift, report.findings.parity
    assert parity is not None
    layered = len(compressed(Path(report.file).read_bytes()))
    found = {
        "size": round(report.size_ratio, 2),
        "size_zstd": round(report.dense_bytes / layered, 2),
        "parity": parity.max_relative,
    }
    return found if drift is None else {**found, "drift": drift.output_error}


def alone(
    model: nn.Module, folder: str, name: str, given: NDArray[np.float32]
) -> dict[str, Any]:
    """One format's figures; where it is refused, the reason."""
    try:
        return cell(export.build(model, folder, formats=name, calibration=given)[name])
    except ExportError as error:
        return {"refused": str(error)}


def row(name: str, formats: Sequence[str]) -> dict[str, Any]:
    """One model in every format; where it is refused, the reason.

    Raises:
        ImportError: If the package that it is from is not installed.
    """
    model = made(name)
    inputs = np.random.default_rng(0).standard_normal((EXAMPLES, *shape_of(name)))
    given = inputs.astype(np.float32)
    with tempfile.TemporaryDirectory() as folder:
        try:
            reports = export.build(model, folder, formats=formats, calibration=given)
            found = {one: cell(report) for one, report in reports.items()}
        except ExportError:  # of one format: the others by themselves
            found = {one: alone(model, folder, one, given) for one in formats}
    return {"model": name, "from": MODELS[name], "formats": found}


def line(found: dict[str, Any]) -> str:
    """A row of the table in docs."""
    cells = found["formats"]
    shown = [name for name in cells if name != "onnx"]

    def said(name: str) -> str:
        one = cells[name]
        if "refused" in one:
            return "refused"
        error = f"{one['drift']:.1g}" if "drift" in one else f"{one['parity']:.1e}"
        return f"{one['size']:.1f}x, {error}".replace("e-0", "e-")

    return f"| `{found['model']}` | " + " | ".join(map(said, shown)) + " |"


def main(arguments: list[str]) -> int:
    """Prints a line per model and how many are built in each format."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", default=[])
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--formats", default=",".join(FORMATS))
    options = parser.parse_args(arguments)
    warnings.simplefilter("ignore")
    file: Path = options.json
    formats = options.formats.split(",")
    rows = json.loads(file.read_text()) if file.exists() else []
    have = {found["model"] for found in rows}
    for name in options.models or MODELS:
        if name in have:
            continue
        try:
            rows.append(row(name, formats))
        except ImportError as error:
            print(f"{name} left out: {error}")
            continue
        file.write_text(to_json(rows, indent=2))
        print(line(rows[-1]), flush=True)
    print(*map(line, rows), sep="\n")
    refused = 0
    for one in formats:
        built = sum("refused" not in found["formats"][one] for found in rows)
        refused += len(rows) - built
        print(f"{one}: {built} of {len(rows)}")
    return 1 if refused else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
