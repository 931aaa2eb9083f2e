"""Models of torchvision and timm, pruned, pass the gates of every format.

They come where the packages are installed (`make test-architectures` installs them and
takes all of them); elsewhere this file is skipped.
"""

import os

import numpy as np
import pytest
from architectures import MODELS, SIZE, made

import export
from edge_sdk.errors import ExportError
from edge_sdk.kernels.build import find_compiler, this_machine

ALL = os.environ.get("FLASH_EDGE_ARCHITECTURES") == "1"
FORMATS = ("onnx", "onnx-sparse", "onnx-fp16", "onnx-int8", "native")
REFUSED = {"swin_t": "operation Transpose .* more than three axes"}
pytestmark = pytest.mark.skipif(
    find_compiler(this_machine()) is None, reason="no C++ compiler is installed"
)


def model_of(name: str):
    try:
        return made(name)
    except ImportError as error:
        pytest.skip(f"{error}")


@pytest.mark.parametrize("name", MODELS if ALL else ["squeezenet1_1"])
def test_a_model_of_torchvision_or_timm_passes_every_gate(name: str) -> None:
    model = model_of(name)
    random = np.random.default_rng(0).standard_normal((64, 3, SIZE, SIZE))
    given = random.astype(np.float32)
    found = export.build(model, formats=FORMATS, calibration=given)
    assert list(found) == list(FORMATS)
    for one in ("onnx", "onnx-sparse", "native"):
        parity = found[one].findings.parity
        assert parity is not None
        assert parity.max_relative <= 1e-5


@pytest.mark.skipif(not ALL, reason="make test-architectures runs it")
@pytest.mark.parametrize("name", REFUSED)
def test_a_model_that_the_native_runtime_cannot_run_is_refused_by_name(
    name: str,
) -> None:
    model = model_of(name)
    with pytest.raises(ExportError, match=REFUSED[name]):
        export.build(model, format="native", input_shape=(3, SIZE, SIZE))
    report = export.build(model, format="onnx-sparse", input_shape=(3, SIZE, SIZE))
    assert np.isfinite(report.findings.parity.max_relative)
