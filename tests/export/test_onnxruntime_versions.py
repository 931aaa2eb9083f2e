"""The oldest onnxruntime of each format, really installed; what is too old says so."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import onnx
import pytest

import export
from edge_sdk.checkpoint import Checkpoint
from export.passes.unpack import dense_form

ROOT = Path(__file__).parents[2]
SPARSE, ORT = "1.15.1", "1.16.3"  # the oldest of Python 3.11 and the oldest for .ort
FORMATS = ("onnx", "onnx-sparse", "onnx-fp16", "onnx-int8")
CHECK = """
import json, sys
from pathlib import Path
import numpy as np
import onnxruntime
from export.runtime import folded_operators, open_session, predict
dense, packed = (Path(name).read_bytes() for name in sys.argv[1:3])
batch = np.load(sys.argv[3])
print(json.dumps({
    "version": onnxruntime.__version__,
    "folds": folded_operators(dense) == folded_operators(packed),
    "bits": bool(np.array_equal(*(predict(open_session(m), batch)
                                  for m in (dense, packed)))),
}))
"""


@pytest.fixture(scope="module")
def bundle(
    digits: tuple[Checkpoint, Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp("old") / "bundle"
    export.make_bundle(
        digits[0], folder, formats=(*FORMATS, "ort"), data=digits[1], seconds=0
    )
    return folder


def old(version: str) -> dict[str, str]:
    """An environment in which that onnxruntime comes first; its wheels are kept."""
    where = Path("~/.cache/flash-edge").expanduser() / f"onnxruntime-{version}"
    if not where.exists():
        if shutil.which("uv") is None or os.environ.get("FLASH_EDGE_NETWORK") != "1":
            pytest.skip("needs uv and a package index (FLASH_EDGE_NETWORK=1)")
        wheels = [f"onnxruntime=={version}", "numpy==1.26.4"]
        fresh = where.with_name(f".{where.name}-{os.getpid()}")
        subprocess.run(
            ["uv", "pip", "install", "-q", "--no-deps", "--python", sys.executable,
             "--target", fresh, *wheels],
            check=True,
        )  # fmt: skip
        fresh.replace(where)
    return {**os.environ, "PYTHONPATH": f"{where}:{ROOT}"}


def python(version: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        env=old(version), capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.skipif(
    sys.version_info[:2] != (3, 11), reason="these wheels are of Python 3.11"
)
@pytest.mark.parametrize("name", ["onnx-sparse", "onnx-fp16", "onnx-int8"])
def test_the_oldest_onnxruntime_folds_packed_weights_to_the_same_bits(
    bundle: Path, tmp_path: Path, name: str
) -> None:
    packed, dense = bundle / f"model.{name}.onnx", tmp_path / "dense.onnx"
    dense.write_bytes(dense_form(onnx.load(packed)).SerializeToString())
    assert dense.stat().st_size > packed.stat().st_size
    example = bundle / "golden" / "input.npy"
    done = python(SPARSE, "-c", CHECK, dense, packed, example)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"version": SPARSE, "folds": True, "bits": True}


@pytest.mark.slow
@pytest.mark.skipif(
    sys.version_info[:2] != (3, 11), reason="these wheels are of Python 3.11"
)
def test_verify_runs_on_the_oldest_and_names_what_is_too_old(bundle: Path) -> None:
    verify = "-m", "export.cli", "verify", bundle
    done = python(ORT, *verify)
    assert done.returncode == 0, done.stderr
    verified = {line.split(":")[0] for line in done.stdout.splitlines()[1:]}
    assert verified == {*FORMATS, "ort"}
    done = python(SPARSE, *verify)
    assert done.returncode != 0
    assert f"onnxruntime {SPARSE} does not load" in done.stderr
    assert ".ort 1.16" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_documentation_names_the_versions_that_are_tested() -> None:
    text = (ROOT / "docs" / "export.md").read_text()
    rows = dict(re.findall(r"^\| `([\w-]+)`.*onnxruntime >= ([\d.]+)", text, re.M))
    assert rows["onnx-sparse"] == SPARSE.rpartition(".")[0]
    assert rows["ort"] == ORT.rpartition(".")[0]
