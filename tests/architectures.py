"""Pruned models of torchvision and timm, with random weights, for tests and benches."""

from __future__ import annotations

import importlib
import warnings
from functools import cache
from types import ModuleType

import torch
from torch import nn
from torch.nn.utils import prune

SIZE = 64  # pixels
# Sixteen, small ones first: name to where it is from.
MODELS = {
    "squeezenet1_1": "torchvision",
    "mnasnet0_5": "torchvision",
    "shufflenet_v2_x0_5": "torchvision",
    "mobilenet_v2": "torchvision",
    "mobilenet_v3_small": "torchvision",
    "mobilenetv4_conv_small": "timm",
    "ghostnet_100": "timm",
    "vit_tiny_patch16_224": "timm",
    "efficientnet_b0": "torchvision",
    "regnet_x_400mf": "torchvision",
    "regnet_y_400mf": "torchvision",
    "levit_128s": "timm",
    "resnet18": "torchvision",
    "densenet121": "torchvision",
    "googlenet": "torchvision",
    "convnext_tiny": "torchvision",
}
_SIZED = {"vit_tiny_patch16_224", "levit_128s"}  # made for one size of images


@cache
def torchvision() -> ModuleType:
    """torchvision's models, also where its library for CUDA does not load.

    It then only lacks operators of detection, whose names its modules look for.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return importlib.import_module("torchvision.models")
        except RuntimeError:
            for name in ("nms", "qnms"):
                _OPERATORS.define(
                    f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
                )
            return importlib.import_module("torchvision.models")


_OPERATORS = torch.library.Library("torchvision", "FRAGMENT")


def pruned(model: nn.Module) -> nn.Module:
    """A tenth of each weight; norms that have seen data."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            prune.l1_unstructured(module, "weight", amount=0.9)
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2)
    return model.eval()


def made(name: str) -> nn.Module:
    """A pruned model by its name.

    Raises:
        ImportError: If its package is not installed, or made for another torch.
    """
    torch.manual_seed(0)
    if MODELS.get(name) == "timm":
        size = {"img_size": SIZE} if name in _SIZED else {}
        return pruned(importlib.import_module("timm").create_model(name, **size))
    make = getattr(torchvision(), name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of googlenet's initial weights
        return pruned(make(weights=None))
