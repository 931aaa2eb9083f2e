"""Models of other packages, pruned, pass the gates of every format.

They come where the packages are installed (`make test-architectures` installs them and
takes all of them); elsewhere this file is skipped.
"""

import os

import numpy as np
import pytest
from architectures import MODELS, made, shape_of

import export
from edge_sdk.kernels.build import find_compiler, this_machine

ALL = os.environ.get("FLASH_EDGE_ARCHITECTURES") == "1"
FORMATS = ("onnx", "onnx-sparse", "onnx-fp16", "onnx-int8", "native")
pytestmark = pytest.mark.skipif(
    find_compiler(this_machine()) is None, reason="no C++ compiler is installed"
)


def model_of(name: str):
    try:
        return made(name)
    except ImportError as error:
        pytest.skip(f"{error}")


@pytest.mark.parametrize("name", MODELS if ALL else ["squeezenet1_1"])
def test_a_model_of_another_package_passes_every_gate(name: str) -> None:
    model = model_of(name)
    random = np.random.default_rng(0).standard_normal((64, *shape_of(name)))
    given = random.astype(np.float32)
    found = export.build(model, formats=FORMATS, calibration=given)
    assert list(found) == list(FORMATS)
    for one in ("onnx", "onnx-sparse", "native"):
        parity = found[one].findings.parity
        assert parity is not None
        assert parity.max_relative <= 1e-5
