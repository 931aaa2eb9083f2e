"""The shipped models, each with the parameter count of the work it comes from.

All are plain modules that ``torch.fx`` can trace; all but the autoencoder give logits.
A name is imported when it is first used, so that the shipped tasks need no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edge_sdk.zoo.autoencoder import DenseAutoencoder
    from edge_sdk.zoo.mobilenet import MobileNetV2Cifar
    from edge_sdk.zoo.resnet import (
        ResNet18Cifar,
        ResNet20,
        ResNet32,
        ResNet44,
        ResNet56,
        ResNet110,
        ResNetCifar,
    )
    from edge_sdk.zoo.signals import ImuNet, KeywordGru, KeywordNet, MotionTcn
    from edge_sdk.zoo.small import DigitsNet, FemnistCnn, McMahanCnn, MnistNet
    from edge_sdk.zoo.unet import SmallUNet
    from edge_sdk.zoo.vgg import Vgg11
    from edge_sdk.zoo.vit import VitTiny

__all__ = [
    "DenseAutoencoder",
    "DigitsNet",
    "FemnistCnn",
    "ImuNet",
    "KeywordGru",
    "KeywordNet",
    "McMahanCnn",
    "MnistNet",
    "MobileNetV2Cifar",
    "MotionTcn",
    "ResNet18Cifar",
    "ResNet20",
    "ResNet32",
    "ResNet44",
    "ResNet56",
    "ResNet110",
    "ResNetCifar",
    "SmallUNet",
    "Vgg11",
    "VitTiny",
]

_HOMES = {
    "autoencoder": ("DenseAutoencoder",),
    "mobilenet": ("MobileNetV2Cifar",),
    "resnet": (
        *("ResNet18Cifar", "ResNet20", "ResNet32", "ResNet44", "ResNet56"),
        *("ResNet110", "ResNetCifar"),
    ),
    "signals": ("ImuNet", "KeywordGru", "KeywordNet", "MotionTcn"),
    "small": ("DigitsNet", "FemnistCnn", "McMahanCnn", "MnistNet"),
    "unet": ("SmallUNet",),
    "vgg": ("Vgg11",),
    "vit": ("VitTiny",),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(importlib.import_module(f"edge_sdk.zoo.{_HOME[name]}"), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
