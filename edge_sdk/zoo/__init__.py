"""The shipped models, each with the parameter count of the work it comes from.

All are plain modules that ``torch.fx`` can trace, and all return logits.
"""

from edge_sdk.zoo.resnet import (
    ResNet18Cifar,
    ResNet20,
    ResNet32,
    ResNet44,
    ResNet56,
    ResNet110,
    ResNetCifar,
)
from edge_sdk.zoo.signals import ImuNet, KeywordNet
from edge_sdk.zoo.small import DigitsNet, FemnistCnn, McMahanCnn, MnistNet
from edge_sdk.zoo.vgg import Vgg11

__all__ = [
    "DigitsNet",
    "FemnistCnn",
    "ImuNet",
    "KeywordNet",
    "McMahanCnn",
    "MnistNet",
    "ResNet18Cifar",
    "ResNet20",
    "ResNet32",
    "ResNet44",
    "ResNet56",
    "ResNet110",
    "ResNetCifar",
    "Vgg11",
]
