"""Image networks trained by their program, beside torch."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from beside_torch import Case, loaded, mask_of, three_steps
from torch import nn

from edge_sdk.program.capture import capture
from edge_sdk.program.passes import optimized
from edge_sdk.sparse import Mask


class Inverted(nn.Module):
    """A MobileNetV2 block."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.add = stride == 1 and inputs == outputs
        wide = inputs * 3
        self.steps = nn.Sequential(
            *(nn.Conv2d(inputs, wide, 1, bias=False), nn.BatchNorm2d(wide), nn.ReLU6()),
            nn.Conv2d(wide, wide, 3, stride, 1, groups=wide, bias=False),
            *(nn.BatchNorm2d(wide), nn.ReLU6()),
            *(nn.Conv2d(wide, outputs, 1, bias=False), nn.BatchNorm2d(outputs)),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.steps(x)
        return x + y if self.add else y


class Pyramid(nn.Module):
    """A U-Net of two levels: one way up by a transposed conv, one by interpolation."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(2, 4, 3, padding=1)
        self.second = nn.Conv2d(4, 8, 3, padding=1)
        self.bottom = nn.Conv2d(8, 8, 3, padding=1)
        self.up = nn.ConvTranspose2d(8, 8, 2, 2)
        self.last = nn.Conv2d(8, 4, 3, padding=1, padding_mode="reflect")
        self.head = nn.Conv2d(4, 1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a = F.relu(self.first(x))
        b = F.relu(self.second(F.max_pool2d(a, 2)))
        c = F.relu(self.bottom(F.avg_pool2d(b, 2)))
        d = F.relu(self.up(c) + b)
        e = F.interpolate(self.last(d), scale_factor=2.0, mode="bilinear") + a
        out: torch.Tensor = self.head(e)
        return out


def separable(channels: int, norm: bool = True) -> nn.Sequential:
    """A block of DS-CNN."""
    normed: Callable[[], nn.Module] = (
        (lambda: nn.BatchNorm2d(channels)) if norm else nn.Identity
    )
    return nn.Sequential(
        *(nn.Conv2d(channels, channels, 3, padding=1, groups=channels), normed()),
        *(nn.ReLU(), nn.Conv2d(channels, channels, 1), normed(), nn.ReLU()),
    )


def head(channels: int) -> list[nn.Module]:
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 5)]


def case_of(name: str, samples: int = 21) -> Case:
    torch.manual_seed(0)
    labels = torch.randint(0, 5, (samples,))
    image = torch.randn(samples, 2, 12, 10) * 2
    match name:
        case "DS-CNN":
            stem = [nn.Conv2d(2, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU()]
            model = nn.Sequential(*stem, separable(8), separable(8), *head(8))
            return Case(model, image, labels)
        case "MobileNetV2":
            stem = [nn.Conv2d(2, 6, 3, 1, 1), nn.BatchNorm2d(6), nn.ReLU6()]
            blocks = [Inverted(6, 6, 1), Inverted(6, 8, 2)]
            return Case(nn.Sequential(*stem, *blocks, *head(8)), image, labels)
        case "U-Net":
            image = torch.randn(samples, 2, 12, 8)
            return Case(Pyramid(), image, torch.randn(samples, 1, 12, 8), F.mse_loss)
        case "dilated 1-D":
            model = nn.Sequential(
                *(nn.ConstantPad1d((4, 0), 0.0), nn.Conv1d(3, 8, 3, dilation=2)),
                *(nn.BatchNorm1d(8), nn.ReLU()),
                *(nn.Conv1d(8, 16, 5, padding=2, groups=8), nn.BatchNorm1d(16)),
                *(nn.ConvTranspose1d(16, 6, 3, 2, 1, output_padding=1), nn.ReLU6()),
                *(nn.AvgPool1d(3, 2, 1), nn.Upsample(scale_factor=2)),
                *(nn.AdaptiveMaxPool1d(4), nn.Flatten(), nn.Linear(24, 5)),
            )
            return Case(model, torch.randn(samples, 3, 21), labels)
        case "pools and borders":
            model = nn.Sequential(
                *(nn.Conv2d(2, 6, 3, padding=1, padding_mode="circular"), nn.ReLU()),
                *(
                    nn.MaxPool2d(3, 2, 1, dilation=2, ceil_mode=True),
                    nn.ReplicationPad2d(1),
                ),
                *(nn.Conv2d(6, 6, 3, groups=6), nn.AvgPool2d(2, 1, 1, False, False)),
                *(nn.AdaptiveAvgPool2d((3, 2)), nn.Flatten(), nn.Linear(36, 5)),
            )
            return Case(model, image, labels)
    raise ValueError(name)


NAMES = ["DS-CNN", "MobileNetV2", "U-Net", "dilated 1-D", "pools and borders"]


@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "adamw"])
@pytest.mark.parametrize("density", [1.0, 0.4])
@pytest.mark.parametrize("name", NAMES)
def test_three_steps_are_torchs(name: str, density: float, optimizer: str) -> None:
    case = case_of(name)
    mask = mask_of(case.model, density) if density < 1 else Mask({})
    # torch's own float32 is up to 2e-5 from its float64 here, as the program is.
    assert three_steps(case, mask, optimizer) < 1e-4


@pytest.mark.parametrize("name", NAMES)
def test_gradients_are_torchs_in_double_precision(name: str) -> None:
    case = case_of(name)
    double = Case(
        case.model.double(), case.inputs.double(), _real(case.targets), case.loss
    )
    ours = loaded(double, Mask({}), double=True)
    loss = ours.backward(double.inputs.numpy(), double.targets.numpy())
    double.model.train()
    theirs = double.loss(double.model(double.inputs), double.targets)
    theirs.backward()  # type: ignore[no-untyped-call]
    assert abs(loss - theirs.item()) < 1e-10
    largest = max(float(p.grad.abs().max()) for p in double.model.parameters())
    for parameter, own in double.model.named_parameters():
        assert own.grad is not None
        worst = np.abs(ours.gradients[parameter] - own.grad.numpy()).max()
        assert worst < 1e-9 * largest, parameter
    double.model.eval()
    expected = double.model(double.inputs).detach().numpy()
    predicted = ours.predict(double.inputs.numpy())
    for entry, array in ours.dense().items():
        if "running" in entry:
            now = double.model.state_dict()[entry].numpy()
            assert np.abs(array - now).max() < 1e-10, entry
    assert np.abs(predicted - expected).max() < 1e-9


def _real(targets: torch.Tensor) -> torch.Tensor:
    return targets.double() if targets.is_floating_point() else targets


@pytest.mark.parametrize("name", ["MobileNetV2", "U-Net"])
def test_any_number_of_threads_gives_the_same_bits(name: str) -> None:
    case = case_of(name)
    mask = mask_of(case.model, 0.4)
    bits = []
    for threads in (1, 2, 4):
        model = loaded(case, mask, threads=threads)
        model.backward(case.inputs.numpy(), case.targets.numpy())
        bits.append(model.gradient_vector.tobytes())
    assert len(set(bits)) == 1


def test_micro_batches_give_the_same_gradient() -> None:
    case = case_of("U-Net", samples=48)
    model = loaded(case, mask_of(case.model, 0.4))
    x, y = case.inputs.numpy(), case.targets.numpy()
    model.backward(x, y)
    whole = model.gradient_vector.copy()
    model.backward(x, y, micro_batch=16)
    np.testing.assert_allclose(
        model.gradient_vector, whole, atol=1e-5 * np.abs(whole).max()
    )


def test_norms_and_depthwise_layers_are_fused() -> None:
    case = case_of("MobileNetV2")
    program = capture(case.model, case.loss, case.inputs, case.targets)
    names = [operation.name for operation in optimized(program.training).operations]
    # Of each block: 1x1 conv, the chain, 1x1 conv and its norm with the residual.
    assert names[:2] == ["conv", "norm"]
    assert names[2:10] == ["conv", "depthwise", "conv", "norm"] * 2
    assert "add" not in names
    assert "relu6" not in names
    assert "hardtanh" not in names


@pytest.mark.parametrize("shared", ["norm", "activation"])
def test_what_others_read_is_not_fused_away(shared: str) -> None:
    class Tapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(2, 2, 3, padding=1, groups=2)
            self.norm = nn.BatchNorm2d(2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.norm(x)
            z = self.conv(F.relu(y))
            return z + y if shared == "norm" else F.relu(y) + z

    torch.manual_seed(0)
    case = Case(Tapped(), torch.randn(9, 2, 6, 5), torch.randn(9, 2, 6, 5), F.mse_loss)
    assert three_steps(case, Mask({})) < 1e-4
