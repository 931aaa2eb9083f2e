"""Models of torchvision and timm, pruned, pass the gates of every format.

They come where the packages are installed (`make test-architectures` installs them and
takes all of them); elsewhere this file is skipped.
"""

import os
import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import prune

import export
from edge_sdk.errors import ExportError
from edge_sdk.kernels.build import find_compiler, this_machine

ALL = os.environ.get("FLASH_EDGE_ARCHITECTURES") == "1"
FORMATS = ("onnx", "onnx-sparse", "onnx-fp16", "native")
TORCHVISION = {
    "squeezenet1_1": 64,
    "mobilenet_v2": 64,
    "mobilenet_v3_small": 64,
    "mnasnet0_5": 64,
    "shufflenet_v2_x0_5": 64,
    "efficientnet_b0": 64,
    "regnet_x_400mf": 64,
    "regnet_y_400mf": 64,
    "googlenet": 64,
    "resnet18": 64,
    "convnext_tiny": 64,
    "densenet121": 64,
}
TIMM = {
    "mobilenetv4_conv_small": {},
    "vit_tiny_patch16_224": {"img_size": 64},
    "ghostnet_100": {},
    "levit_128s": {"img_size": 64},
}
REFUSED = {"swin_t": "operation Transpose .* more than three axes"}
pytestmark = pytest.mark.skipif(
    find_compiler(this_machine()) is None, reason="no C++ compiler is installed"
)


def pruned(model: nn.Module) -> nn.Module:
    """A tenth of each weight; norms that have seen data."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            prune.l1_unstructured(module, "weight", amount=0.9)
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2)
    return model.eval()


def of_torchvision(name: str) -> nn.Module:
    try:
        from torchvision import models
    except (ImportError, RuntimeError) as error:  # built for another torch
        pytest.skip(f"torchvision cannot be imported: {error}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of googlenet's initial weights
        torch.manual_seed(0)
        return pruned(getattr(models, name)(weights=None))


def passes(model: nn.Module, size: int) -> None:
    made = export.build(model, formats=FORMATS, input_shape=(3, size, size))
    assert list(made) == list(FORMATS)
    for name in ("onnx", "native"):
        parity = made[name].findings.parity
        assert parity is not None
        assert parity.max_relative <= 1e-5


@pytest.mark.parametrize("name", TORCHVISION if ALL else ["squeezenet1_1"])
def test_a_model_of_torchvision_passes_every_gate(name: str) -> None:
    passes(of_torchvision(name), TORCHVISION[name])


@pytest.mark.skipif(not ALL, reason="make test-architectures runs it")
@pytest.mark.parametrize("name", TIMM)
def test_a_model_of_timm_passes_every_gate(name: str) -> None:
    try:
        import timm
    except (ImportError, RuntimeError) as error:
        pytest.skip(f"timm cannot be imported: {error}")
    torch.manual_seed(0)
    passes(pruned(timm.create_model(name, **TIMM[name])), 64)


@pytest.mark.skipif(not ALL, reason="make test-architectures runs it")
@pytest.mark.parametrize("name", REFUSED)
def test_a_model_that_the_native_runtime_cannot_run_is_refused_by_name(
    name: str,
) -> None:
    model = of_torchvision(name)
    with pytest.raises(ExportError, match=REFUSED[name]):
        export.build(model, format="native", input_shape=(3, 64, 64))
    report = export.build(model, format="onnx-sparse", input_shape=(3, 64, 64))
    assert np.isfinite(report.findings.parity.max_relative)
