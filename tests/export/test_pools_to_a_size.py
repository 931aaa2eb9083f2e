"""Average pools to any size pass every gate."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 - torch's own name

import export
from edge_sdk.kernels.build import find_compiler, this_machine

pytestmark = pytest.mark.skipif(
    find_compiler(this_machine()) is None, reason="no C++ compiler is installed"
)
FORMATS = ("onnx", "onnx-sparse", "native")


class Pooled(nn.Module):
    """A convolution and what a function makes of it."""

    def __init__(self, axes: int, then: object) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[axes - 1](2, 4, 3)
        self.then = then

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.then(self.conv(x))


CASES = {
    "mean of a sequence": (1, (2, 25), lambda y: F.adaptive_avg_pool1d(y, 7)),
    "mean, even and uneven": (
        2, (2, 14, 15), lambda y: F.adaptive_avg_pool2d(y, (4, 5)),
    ),
    "mean of one axis": (2, (2, 14, 9), lambda y: F.adaptive_avg_pool2d(y, (None, 1))),
    "mean to more": (2, (2, 6, 7), lambda y: F.adaptive_avg_pool2d(y, (6, 3))),
    "mean of all": (2, (2, 14, 15), lambda y: F.adaptive_avg_pool2d(y, 1).flatten(1)),
    "mean of a volume": (
        3, (2, 7, 8, 9), lambda y: F.adaptive_avg_pool3d(y, (2, 3, 4)),
    ),
    "by area": (2, (2, 14, 15), lambda y: F.interpolate(y, (5, 7), mode="area")),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_a_pool_to_a_size_passes_every_gate(name: str) -> None:
    axes, shape, then = CASES[name]
    model = Pooled(axes, then).eval()
    given = np.random.default_rng(0).standard_normal((8, *shape)).astype(np.float32)
    found = export.build(model, formats=FORMATS, calibration=given)
    assert list(found) == list(FORMATS)
