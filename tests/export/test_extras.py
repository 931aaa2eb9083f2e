"""Converters that are a gigabyte each: tested where one is installed.

python -m venv /tmp/x && /tmp/x/bin/pip install -e '.[dev,executorch]'
/tmp/x/bin/pytest tests/export/test_extras.py
"""

import importlib.util
import zipfile
from pathlib import Path

import pytest

import export
from edge_sdk.checkpoint import Checkpoint
from edge_sdk.errors import DependencyError, ExportError

MODULES = {
    "executorch": "executorch",
    "litert": "litert_torch",
    "coreml": "coremltools",
}


def installed(name: str) -> bool:
    return importlib.util.find_spec(MODULES[name]) is not None


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", MODULES)
def test_a_converted_model_passes_its_gates(
    checkpoint: Checkpoint, tmp_path: Path, name: str
) -> None:
    if not installed(name):
        pytest.skip(f"the extra {name} is not installed")
    out = tmp_path / f"model.{name}"
    report = export.build(checkpoint, format=name, out=out)
    assert report.findings.weights_checked == len(checkpoint.layers)
    if name == "coreml":  # converts here, predicts on Apple's systems only
        assert report.findings.parity is None
        assert "not compared" in "\n".join(report.lines())
        assert zipfile.ZipFile(out).testzip() is None
    else:
        assert report.findings.parity is not None
        assert report.findings.parity.max_relative <= 1e-5
    with pytest.raises(ExportError, match="fixed batch"):
        export.build(checkpoint, format=name, batch="dynamic")


@pytest.mark.parametrize("name", MODULES)
def test_a_missing_converter_is_named_with_its_extra(
    checkpoint: Checkpoint, tmp_path: Path, name: str
) -> None:
    if installed(name):
        pytest.skip(f"the extra {name} is installed")
    out = tmp_path / "model"
    with pytest.raises(DependencyError, match=MODULES[name]) as caught:
        export.build(checkpoint, format=name, out=out)
    assert f"flash-edge[{name}]" in caught.value.help
    assert not out.exists()


@pytest.mark.parametrize("name", MODULES)
def test_such_a_format_does_not_go_into_a_bundle(
    checkpoint: Checkpoint, tmp_path: Path, name: str
) -> None:
    with pytest.raises(ExportError, match="does not go into a bundle"):
        export.make_bundle(checkpoint, tmp_path / "b", formats=(name,))
    assert list(tmp_path.iterdir()) == []
