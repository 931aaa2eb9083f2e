"""`SHIPPED`: tasks that come with the package, by their short names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

__all__ = ["SHIPPED"]

_NAMES = ("cifar10", "femnist", "mnist", "fashion", "digits", "watch", "spoken")
_VARIANTS = {
    "spoken-gru": "spoken:gru",
    "watch-tcn": "watch:tcn",
    "fashion-anomaly": "anomaly:task",
    "fashion-denoise": "denoise:task",
    "cifar10-mobilenetv2": "cifar10:mobilenetv2",
    "cifar10-vit": "cifar10:vit",
}
# Short name -> package.module:object.
SHIPPED: Final[Mapping[str, str]] = {
    **{name: f"edge_sdk.zoo.tasks.{name}:task" for name in _NAMES},
    **{name: f"edge_sdk.zoo.tasks.{at}" for name, at in _VARIANTS.items()},
}
