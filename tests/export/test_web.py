"""A browser's runtime: onnx-sparse loads in onnxruntime-web and equals dense."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from several import Rows

import export
from edge_sdk.checkpoint import Checkpoint
from export.rebuild import from_checkpoint

SCRIPT = """
const ort = require('onnxruntime-web');
const fs = require('fs');
ort.env.wasm.numThreads = 1;
(async () => {
  const raw = fs.readFileSync(process.argv[3]);
  const data = new Float32Array(raw.buffer, raw.byteOffset, raw.length / 4);
  const shape = JSON.parse(process.argv[4]);
  const values = await outputsOf(ort, fs.readFileSync(process.argv[2]), data, shape);
  fs.writeFileSync(process.argv[5],
    Buffer.from(values.buffer, values.byteOffset, values.byteLength));
})().catch((error) => { console.error(String(error)); process.exit(1); });
"""


@pytest.fixture(scope="module")
def node() -> tuple[str, Path]:
    """node, and a folder whose node_modules has onnxruntime-web."""
    tool = shutil.which("node")
    folder = Path(os.environ.get("FLASH_EDGE_WEB") or Path(__file__).parent / "web")
    if tool is None:
        pytest.skip("node is not installed")
    if not (folder / "node_modules" / "onnxruntime-web").is_dir():
        pytest.skip(
            "onnxruntime-web is not installed: npm install --prefix tests/export/web"
        )
    return tool, folder


def test_sparse_equals_dense_in_the_browsers_runtime(
    node: tuple[str, Path], digits: tuple[Checkpoint, Path], tmp_path: Path
) -> None:
    tool, folder = node
    checkpoint, data = digits
    script = tmp_path / "run.cjs"
    page = Path(__file__).parents[2] / "docs" / "guides" / "phones.md"
    shown = re.findall(r"```javascript\n(.*?)```", page.read_text("utf-8"), re.DOTALL)
    script.write_text("\n".join([*shown, SCRIPT]))
    (tmp_path / "node_modules").symlink_to((folder / "node_modules").resolve())
    example = from_checkpoint(checkpoint).inputs(data, 1).batch
    (tmp_path / "input.f32").write_bytes(example.tobytes())
    outputs = {}
    for name in ("onnx", "onnx-sparse", "onnx-fp16", "onnx-int8"):
        model, out = tmp_path / f"{name}.onnx", tmp_path / f"{name}.f32"
        export.build(checkpoint, format=name, out=model, data=data)
        call = [tool, script, model, tmp_path / "input.f32", "[1,1,8,8]", out]
        done = subprocess.run(
            list(map(str, call)), capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        outputs[name] = np.fromfile(out, np.float32)
    np.testing.assert_array_equal(outputs["onnx-sparse"], outputs["onnx"])
    scale = np.abs(outputs["onnx"]).max()
    assert np.abs(outputs["onnx-fp16"] - outputs["onnx"]).max() <= 0.01 * scale
    assert np.abs(outputs["onnx-int8"] - outputs["onnx"]).max() <= 0.2 * scale


SEVERAL = """
const ort = require('onnxruntime-web');
const fs = require('fs');
ort.env.wasm.numThreads = 1;
outputsOfSeveral(ort, fs.readFileSync(process.argv[2]), {
  ids: ['int64', BigInt64Array.from([0n, 4n, 2n]), [1, 3]],
  extra: ['float32', Float32Array.from([1, -2, 0.5]), [1, 3]],
}).then((values) => console.log(JSON.stringify(Array.from(values))));
"""


def test_the_browsers_runtime_takes_several_inputs_by_name(
    node: tuple[str, Path], tmp_path: Path
) -> None:
    tool, folder = node
    (tmp_path / "node_modules").symlink_to((folder / "node_modules").resolve())
    page = Path(__file__).parents[2] / "docs" / "guides" / "phones.md"
    shown = re.findall(r"```javascript\n(.*?)```", page.read_text("utf-8"), re.DOTALL)
    (tmp_path / "run.cjs").write_text("\n".join([*shown, SEVERAL]))
    model = tmp_path / "rows.onnx"
    export.build(
        Rows(), model, format="onnx-sparse", input_shape={"ids": (3,), "extra": (3,)}
    )
    call = [tool, str(tmp_path / "run.cjs"), str(model)]
    done = subprocess.run(call, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    with torch.no_grad():
        wanted = Rows()(torch.tensor([[0, 4, 2]]), torch.tensor([[1, -2, 0.5]]))
    np.testing.assert_allclose(json.loads(done.stdout), wanted[0], rtol=1e-5)
