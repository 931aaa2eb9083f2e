"""The shipped models by their names in 0.1.0; use `edge_sdk.zoo`."""

from edge_sdk.zoo import (
    DigitsNet,
    FemnistCnn,
    ImuNet,
    KeywordNet,
    McMahanCnn,
    MnistNet,
    ResNet18Cifar,
    ResNet20,
    ResNet32,
    ResNet44,
    ResNet56,
    ResNet110,
    ResNetCifar,
    Vgg11,
)

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
