"""The shipped models are the ones their papers count, and plain enough to trace."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import fx, nn

from edge_sdk import zoo

MNIST, DIGIT, CIFAR = (1, 28, 28), (1, 8, 8), (3, 32, 32)

MODELS = [
    pytest.param(zoo.MnistNet, MNIST, 10, 261_840, id="mnistnet"),
    pytest.param(zoo.FemnistCnn, MNIST, 62, 6_603_710, id="femnist"),
    pytest.param(zoo.McMahanCnn, MNIST, 10, 1_663_370, id="mcmahan"),
    pytest.param(zoo.DigitsNet, DIGIT, 10, 13_706, id="digits"),
    pytest.param(zoo.ResNet18Cifar, CIFAR, 10, 11_173_962, id="resnet18"),
    pytest.param(
        lambda: zoo.ResNet18Cifar(100), CIFAR, 100, 11_220_132, id="resnet18-c100"
    ),
    pytest.param(
        lambda: zoo.ResNet18Cifar(200), (3, 64, 64), 200, 11_271_432, id="resnet18-tiny"
    ),
    pytest.param(
        lambda: zoo.ResNet18Cifar(norm="group"), CIFAR, 10, 11_173_962, id="resnet18-gn"
    ),
    pytest.param(zoo.ResNet20, CIFAR, 10, 269_722, id="resnet20"),
    pytest.param(
        lambda: zoo.ResNet20(norm="group"), CIFAR, 10, 269_722, id="resnet20-gn"
    ),
    pytest.param(zoo.ResNet32, CIFAR, 10, 464_154, id="resnet32"),
    pytest.param(zoo.ResNet44, CIFAR, 10, 658_586, id="resnet44"),
    pytest.param(zoo.ResNet56, CIFAR, 10, 853_018, id="resnet56"),
    pytest.param(zoo.ResNet110, CIFAR, 10, 1_727_962, id="resnet110"),
    pytest.param(zoo.Vgg11, CIFAR, 10, 9_231_114, id="vgg11"),
    pytest.param(zoo.KeywordNet, (1, 61, 40), 10, 23_050, id="keyword"),
    pytest.param(zoo.KeywordGru, (1, 61, 40), 10, 66_570, id="keyword gru"),
    pytest.param(zoo.ImuNet, (6, 100), 7, 35_303, id="imu"),
    pytest.param(zoo.MotionTcn, (6, 100), 7, 76_951, id="tcn"),
    pytest.param(zoo.MobileNetV2Cifar, CIFAR, 10, 2_236_682, id="mobilenet"),
    pytest.param(zoo.VitTiny, CIFAR, 10, 2_693_194, id="vit"),
    pytest.param(zoo.DenseAutoencoder, (640,), 640, 267_928, id="autoencoder"),
]


@pytest.mark.parametrize(("make", "shape", "classes", "parameters"), MODELS)
def test_a_model_has_the_counted_parameters_and_traces(
    make: Callable[[], nn.Module],
    shape: tuple[int, ...],
    classes: int,
    parameters: int,
) -> None:
    model = make().eval()
    assert sum(p.numel() for p in model.parameters()) == parameters
    inputs = torch.randn(2, *shape, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        logits = model(inputs)
        traced = fx.symbolic_trace(model)(inputs)
    assert logits.shape == (2, classes)
    assert torch.equal(logits, traced)


def test_a_unet_gives_an_image_of_the_size_it_got() -> None:
    model = zoo.SmallUNet(3, 2).eval()
    assert sum(p.numel() for p in zoo.SmallUNet().parameters()) == 105_553
    inputs = torch.randn(2, 3, 12, 20)
    with torch.no_grad():
        image = model(inputs)
        assert torch.equal(image, fx.symbolic_trace(model)(inputs))
    assert image.shape == (2, 2, 12, 20)


def test_a_causal_network_sees_no_later_step() -> None:
    model = zoo.MotionTcn().eval()
    inputs = torch.randn(1, 6, 50)
    changed = inputs.clone()
    changed[..., 30:] += 1
    with torch.no_grad():
        before, after = (model.blocks(model.conv1(x)) for x in (inputs, changed))
    assert torch.equal(before[..., :30], after[..., :30])
    assert not torch.equal(before, after)


@pytest.mark.parametrize("make", [zoo.MnistNet, zoo.FemnistCnn, zoo.McMahanCnn])
def test_no_model_ends_in_a_softmax(make: Callable[[], nn.Module]) -> None:
    with torch.no_grad():
        total = make()(torch.ones(1, *MNIST)).sum().item()
    assert total != pytest.approx(1.0, abs=1e-6)


def test_the_maps_of_mnistnet_are_those_of_flash() -> None:
    shapes: list[tuple[int, ...]] = []

    def note(_module: nn.Module, _inputs: object, out: torch.Tensor) -> None:
        shapes.append(tuple(out.shape[1:]))

    model = zoo.MnistNet()
    for layer in (model.conv1, model.conv2, model.fc1):
        layer.register_forward_hook(note)
    model(torch.zeros(1, 1, 28, 28))
    assert shapes == [(10, 24, 24), (20, 18, 18), (50,)]
    assert model.fc1.in_features == 20 * 16 * 16


def test_resnet18_starts_as_flash_says() -> None:
    torch.manual_seed(0)
    model = zoo.ResNet18Cifar()
    conv = model.get_parameter("layer4.1.conv2.weight")
    bound = 0.5 * (6 / (512 * 9 + 512 * 9)) ** 0.5  # Xavier-uniform, gain 0.5
    assert conv.abs().max() <= bound
    assert conv.std().item() == pytest.approx(bound / 3**0.5, rel=0.01)
    assert model.fc.weight.std().item() == pytest.approx(0.01, rel=0.05)
    assert not model.fc.bias.any()
    assert model.get_parameter("norm1.weight").eq(1).all()


@pytest.mark.parametrize("make", [zoo.ResNet18Cifar, zoo.ResNet20])
def test_group_norm_leaves_no_running_statistics(
    make: Callable[..., nn.Module],
) -> None:
    assert not list(make(norm="group").buffers())
    assert list(make(norm="batch").buffers())
