"""Models as people write them, and the dense-masked training they are compared with."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from edge_sdk.sparse import Mask

Builder = Callable[[], nn.Module]


class MnistNet(nn.Module):
    """FedDST's MNISTNet: 5x5 without padding, 3x3 stride-1 pools before ReLU."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 10, 5)
        self.conv2 = nn.Conv2d(10, 20, 5)
        self.fc1 = nn.Linear(5120, 50)
        self.fc2 = nn.Linear(50, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(F.max_pool2d(self.conv1(x), 3, 1))
        x = F.relu(F.max_pool2d(self.conv2(x), 3, 1))
        x = F.relu(self.fc1(x.view(-1, 5120)))
        return F.log_softmax(self.fc2(x), dim=1)


class Block(nn.Module):
    """A torchvision-style basic block, in-place ReLU and all."""

    def __init__(self, inputs: int, outputs: int, stride: int, norm: str) -> None:
        super().__init__()

        def make() -> nn.Module:
            return (
                nn.BatchNorm2d(outputs) if norm == "batch" else nn.GroupNorm(4, outputs)
            )

        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = make()
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = make()
        self.downsample = None
        if stride != 1 or inputs != outputs:
            conv = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.downsample = nn.Sequential(conv, make())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        identity = x
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        if self.downsample is not None:
            identity = self.downsample(x)
        out += identity
        return self.relu(out)


class ResNet(nn.Module):
    """A small ResNet with max-pool stem, strides, shortcuts and global average."""

    def __init__(self, norm: str = "batch") -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(8) if norm == "batch" else nn.GroupNorm(4, 8)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        self.layer1 = nn.Sequential(Block(8, 8, 1, norm), Block(8, 8, 1, norm))
        self.layer2 = nn.Sequential(Block(8, 16, 2, norm), Block(16, 16, 1, norm))
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(16, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer2(self.layer1(x))
        return self.fc(torch.flatten(self.avgpool(x), 1))


class Vgg(nn.Module):
    """VGG with a shared pool module, groups, dilation and functional dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = nn.MaxPool2d(2)
        self.conv1, self.norm1 = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.conv2, self.norm2 = nn.Conv2d(8, 12, 3, padding="same"), nn.BatchNorm2d(12)
        self.conv3 = nn.Conv2d(12, 12, 3, padding=1, groups=2)
        self.conv4 = nn.Conv2d(12, 12, 3, padding=2, dilation=2)
        self.fc1, self.fc2 = nn.Linear(12 * 4 * 4, 20), nn.Linear(20, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.pool(F.relu(self.norm1(self.conv1(x))))
        x = F.relu(self.norm2(self.conv2(x)))
        x = F.leaky_relu(self.conv4(F.relu(self.conv3(self.pool(x)))))
        x = F.avg_pool2d(x, 2)
        x = x.reshape(x.size(0), -1)
        return self.fc2(F.dropout(F.relu(self.fc1(x)), 0.5, self.training))


class Mixed(nn.Module):
    """Layers with and without a sparse form in turn, concatenation, a mean."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.left, self.right = nn.Conv2d(8, 6, 1), nn.Conv2d(8, 6, 3, padding=1)
        self.lrn = nn.LocalResponseNorm(2)
        self.last = nn.Conv2d(12, 8, 3, stride=2)
        self.head = nn.Linear(8, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.stem(x))
        x = torch.cat([self.left(x), self.right(x)], dim=1)
        x = self.last(self.lrn(x) * 0.5)
        return self.head(x.mean((2, 3)))


def mlp() -> nn.Module:
    return nn.Sequential(
        nn.Flatten(), nn.Linear(48, 40), nn.BatchNorm1d(40), nn.ReLU(),
        nn.Linear(40, 30), nn.Tanh(), nn.Linear(30, 10),
    )  # fmt: skip


MODELS: dict[str, tuple[Builder, tuple[int, ...]]] = {
    "mnistnet": (MnistNet, (1, 28, 28)),
    "resnet": (ResNet, (3, 33, 32)),
    "resnet-group-norm": (lambda: ResNet("group"), (3, 20, 24)),
    "vgg": (Vgg, (3, 32, 32)),
    "mixed": (Mixed, (3, 9, 11)),
    "mlp": (mlp, (3, 4, 4)),
}


class Zoo:
    """Builds models, masks and batches by name, always alike."""

    names = tuple(MODELS)

    def model(self, name: str, dtype: torch.dtype = torch.float64) -> nn.Module:
        torch.manual_seed(7)
        return MODELS[name][0]().to(dtype)

    def mask(
        self, model: nn.Module, density: float = 0.3, *, edges_dense: bool = True
    ) -> Mask:
        """Random patterns; the first and the last layer stay out of the mask."""
        rng = np.random.default_rng(5)
        kinds = (nn.Conv2d, nn.Linear)
        names = [n for n, m in model.named_modules() if isinstance(m, kinds)]
        chosen = names[1:-1] if edges_dense else names
        state = model.state_dict()
        return Mask(
            {
                f"{n}.weight": rng.random(state[f"{n}.weight"].shape) < density
                for n in chosen
            }
        )

    def batch(
        self, name: str, samples: int, dtype: torch.dtype = torch.float64, seed: int = 0
    ) -> tuple[torch.Tensor, torch.Tensor]:
        gen = torch.Generator().manual_seed(seed)
        x = torch.randn((samples, *MODELS[name][1]), generator=gen, dtype=torch.float64)
        return x.to(dtype), torch.randint(10, (samples,), generator=gen)

    def masked_twin(self, model: nn.Module, mask: Mask) -> nn.Module:
        """A dense copy whose weights and gradients are multiplied by the mask."""
        dense = copy.deepcopy(model)
        for name, parameter in dense.named_parameters():
            if name in mask.layers:
                keep = torch.tensor(mask[name])
                parameter.data *= keep
                parameter.register_hook(lambda g, keep=keep: g * keep)
        return dense


@pytest.fixture(scope="session")
def zoo() -> Zoo:
    return Zoo()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """`model_name` runs over the whole zoo."""
    if "model_name" in metafunc.fixturenames:
        metafunc.parametrize("model_name", list(MODELS))
