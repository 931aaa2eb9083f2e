"""Measures pruned models of torchvision and timm beside dense onnxruntime and OpenVINO.

Run from the root of the project (`make bench-architectures` installs the libraries):
    python tests/bench/bench_architectures.py [--models mobilenet_v2,gru]
        [--formats native,native-int8,onnx-int8,ort] [--isa avxvnni,avx2]
        [--density 0.1] [--json FILE]

Weights are random and pruned by size, layer by layer; depth-wise layers and a stem of
three channels stay dense, as pruning leaves them in practice. One thread, batch 1,
processor time of the process, all runtimes in turn, medians: the ratio holds on a busy
machine, the microseconds do not. The limit is 1 / MAC density: what leaving out
multiplications alone can give. Libraries that are not installed are left out, by name.
Beside rounded formats stands OpenVINO's int8, dense, which nncf calibrates on the same
examples. With --isa the native formats run on each of these kernel sets.
MNN is no peer here: its converter installs packages into the Python that it finds.
"""

from __future__ import annotations

import argparse
import importlib
import os
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.utils import prune

sys.path.append(str(Path(__file__).resolve().parents[1]))

from architectures import of_ultralytics, torchvision

import export
from edge_sdk.errors import ExportError
from edge_sdk.json_text import to_json
from export.places import suffix_of

GOALS = {  # times as fast as dense onnxruntime, at a density of a tenth, as `native`
    "resnet18": 2.9, "squeezenet1_1": 2.6, "mobilenet_v2": 1.9,
    "mobilenetv4_conv_small": 1.8, "efficientnet_b0": 1.6, "vit_tiny_patch16_224": 2.5,
    "gru": 4.0, "yolov8n": 1.8,
}  # fmt: skip
ROUNDED = frozenset({"onnx-int8", "native-int8"})
IMAGE = (3, 224, 224)
BURST, WARM = 6, 2


class Gru(nn.Module):
    """Two layers of 256 over 50 steps of 64 values, as for keywords in sound."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(64, 256, 2, batch_first=True)
        self.head = nn.Linear(256, 35)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.gru(x)[0][:, -1])


def of_torchvision(name: str) -> nn.Module:
    made = getattr(torchvision(), name)(weights=None)
    assert isinstance(made, nn.Module)
    return made


def of_timm(name: str) -> nn.Module:
    made = importlib.import_module("timm").create_model(name)
    assert isinstance(made, nn.Module)
    return made


MODELS: dict[str, tuple[Callable[[str], nn.Module], tuple[int, ...]]] = {
    "mobilenet_v2": (of_torchvision, IMAGE),
    "mobilenet_v3_small": (of_torchvision, IMAGE),
    "efficientnet_b0": (of_torchvision, IMAGE),
    "resnet18": (of_torchvision, IMAGE),
    "squeezenet1_1": (of_torchvision, IMAGE),
    "mobilenetv4_conv_small": (of_timm, IMAGE),
    "vit_tiny_patch16_224": (of_timm, IMAGE),
    "gru": (lambda _: Gru(), (50, 64)),
    "yolov8n": (of_ultralytics, (3, 320, 320)),
}


def pruned(model: nn.Module, density: float) -> nn.Module:
    """The model with its layers' smallest weights masked, norms as after training."""
    for layer in model.modules():
        names: list[str] = []
        if isinstance(layer, nn.Linear):
            names = ["weight"]
        elif isinstance(layer, nn.Conv2d):
            depthwise = layer.groups == layer.in_channels > 1
            stem = layer.in_channels == 3 and layer.kernel_size[0] < 8
            names = [] if depthwise or stem else ["weight"]
        elif isinstance(layer, nn.RNNBase):
            names = [n for n, _ in layer.named_parameters() if n.startswith("weight")]
        elif isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.normal_(0, 0.1)  # type: ignore[union-attr]
            layer.running_var.uniform_(0.5, 2)  # type: ignore[union-attr]
        for name in names:
            prune.l1_unstructured(layer, name, amount=1 - density)
    return model.eval()


def medians(runs: dict[str, Callable[[], object]], turns: int) -> dict[str, float]:
    """Microseconds of processor time of each, in bursts of one after the other."""
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(turns):
        for name, run in runs.items():
            for i in range(BURST):
                start = time.process_time_ns()
                run()
                if i >= WARM:
                    taken[name].append((time.process_time_ns() - start) / 1e3)
    return {name: statistics.median(values) for name, values in taken.items()}


def openvino(
    file: Path, batch: np.ndarray, given: np.ndarray | None = None
) -> Callable[[], object]:
    """Dense OpenVINO on one thread: in float32, or in int8 calibrated on examples."""
    ov = importlib.import_module("openvino")
    options = {
        "INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": "f32",
        "PERFORMANCE_HINT": "LATENCY",
    }  # fmt: skip
    model = ov.Core().read_model(str(file))
    if given is not None:
        nncf = importlib.import_module("nncf")
        examples = nncf.Dataset([row[None] for row in given])
        model = nncf.quantize(model, examples, subset_size=len(given))
    request = ov.Core().compile_model(model, "CPU", options).create_infer_request()
    return lambda: request.infer([batch])


def have(*names: str) -> bool:
    """Whether the libraries are installed; names the first that is not."""
    missing = [name for name in names if find_spec(name) is None]
    if missing:
        print(f"OpenVINO is left out: {missing[0]} is not installed")
    return not missing


def opened(
    out: Path, format_: str, batch: np.ndarray, isas: Sequence[str]
) -> dict[str, Callable[[], object]]:
    """A run of the file; of a native one a run on each kernel set."""
    found: dict[str, Callable[[], object]] = {}
    for isa in isas if format_.startswith("native") and isas else [None]:
        if isa is not None:
            os.environ["FLSP_ISA"] = isa
        model = export.load(out)
        os.environ.pop("FLSP_ISA", None)
        name = format_ if isa is None else f"{format_}@{isa}"
        found[name] = lambda model=model: model(batch)  # type: ignore[misc]
    return found


def measure(
    name: str,
    formats: Sequence[str],
    density: float,
    folder: Path,
    turns: int,
    isas: Sequence[str] = (),
) -> dict[str, Any]:
    """One model: built through all gates, then all files are timed in turn."""
    make, shape = MODELS[name]
    torch.manual_seed(0)
    model = pruned(make(name), density)
    random = np.random.default_rng(0)
    batch = random.standard_normal((1, *shape)).astype(np.float32)
    given = random.standard_normal((16, *shape)).astype(np.float32)
    runs: dict[str, Callable[[], object]] = {}
    row: dict[str, Any] = {"model": name, "density": density, "goal": GOALS.get(name)}
    for format_ in ("onnx", *formats):
        out = folder / f"{name}-{format_}{suffix_of(format_)}"
        examples: dict[str, Any] = {"input_shape": shape}
        if format_ in ROUNDED:
            examples = {"calibration": given}
        try:
            report = export.build(model, format=format_, out=out, **examples)
        except ExportError as error:  # a rounded format of random weights, mostly
            print(f"{name:24s} {format_} left out: {error}")
            continue
        row.setdefault("dense_bytes", report.dense_bytes)
        row.setdefault("limit", 1 / report.mac_density)
        row[f"{format_}_size"] = report.size_ratio
        runs |= opened(out, format_, batch, isas)
    dense = folder / f"{name}-onnx.onnx"
    if have("openvino"):
        runs["openvino"] = openvino(dense, batch)
    if have("openvino", "nncf") and ROUNDED.intersection(formats):
        runs["openvino-int8"] = openvino(dense, batch, given)
    found = medians(runs, turns)
    times = {f"{key}_us": value for key, value in found.items()}
    speeds = {f"{key}_speed": found["onnx"] / us for key, us in found.items()}
    return {**row, **times, **speeds}


def shown(row: dict[str, Any]) -> str:
    """A line of the table."""
    names = [k.removesuffix("_speed") for k in row if k.endswith("_speed")]
    speeds = "  ".join(
        f"{n} {row[f'{n}_speed']:.2f}x"
        + (f" ({row[f'{n}_size']:.1f}x smaller)" if f"{n}_size" in row else "")
        for n in names
        if n != "onnx"
    )
    goal, native = row["goal"], row.get("native_speed")
    said = ""
    if goal and native and row["density"] == 0.1:
        said = f"  goal {goal}x {'ok' if native >= goal else 'MISSED'}"
    dense = f"{row['model']:24s} dense {row['onnx_us'] / 1e3:.2f} ms"
    return f"{dense}  {speeds}  limit {row['limit']:.1f}x{said}"


def main(arguments: list[str]) -> int:
    """Prints a line per model and writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--formats", default="native")
    parser.add_argument("--density", type=float, default=0.1)
    parser.add_argument("--turns", type=int, default=15)
    parser.add_argument("--isa", default="", help="of native: vnni, v4, avxvnni, ...")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    formats = options.formats.split(",")
    for name in options.models.split(","):
        with tempfile.TemporaryDirectory() as folder:
            try:
                row = measure(
                    name, formats, options.density, Path(folder), options.turns,
                    list(filter(None, options.isa.split(","))),
                )  # fmt: skip
            except ModuleNotFoundError as error:
                print(f"{name:24s} left out: {error.name} is not installed")
                continue
        rows.append(row)
        print(shown(row), flush=True)
    if options.json:
        options.json.write_text(to_json(rows, indent=2))
    return 0 if rows else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
