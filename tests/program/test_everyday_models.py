"""Models as people write them, trained by their programs beside torch."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from beside_torch import Case, loaded, mask_of, three_steps
from torch import nn

from edge_sdk.errors import EngineError
from edge_sdk.program.capture import capture, compiled
from edge_sdk.program.capture.compare import compare
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
        self.dropped = 0.5
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
        return self.fc2(F.dropout(F.relu(self.fc1(x)), self.dropped, self.training))


class Mixed(nn.Module):
    """Two ways that meet in a concatenation, a number times a map, a mean."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.left, self.right = nn.Conv2d(8, 6, 1), nn.Conv2d(8, 6, 3, padding=1)
        self.last = nn.Conv2d(12, 8, 3, stride=2)
        self.head = nn.Linear(8, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.stem(x))
        x = torch.cat([self.left(x), self.right(x)], dim=1)
        x = self.last(x * 0.5)
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


def case_of(name: str, samples: int = 6, dtype: torch.dtype = torch.float32) -> Case:
    torch.manual_seed(7)
    make, shape = MODELS[name]
    model = make().to(dtype)
    if name == "vgg":  # dropout draws other numbers than torch's
        model.dropped = 0.0
    inputs = torch.randn((samples, *shape), dtype=dtype)
    loss = F.nll_loss if name == "mnistnet" else F.cross_entropy
    return Case(model, inputs, torch.randint(0, 10, (samples,)), loss)


@pytest.mark.parametrize("name", MODELS)
def test_float64_weights_equal_masked_dense_training(name: str) -> None:
    case = case_of(name, 20, torch.float64)
    mask = mask_of(case.model, 0.3)
    assert three_steps(case, mask, "momentum", double=True) < 1e-10


@pytest.mark.parametrize("name", MODELS)
def test_predictions_are_the_masked_model_s_at_any_batch(name: str) -> None:
    case = case_of(name, 33)
    mask = mask_of(case.model, 0.3)
    with torch.no_grad():
        for layer in mask:
            weight = case.model.get_parameter(layer)
            weight.mul_(torch.from_numpy(np.array(mask[layer])))
    ours = loaded(case, mask)
    before = copy.deepcopy(case.model.state_dict())
    for samples in (1, 3, 16, 33):
        x = case.inputs[:samples]
        with torch.no_grad():
            expected = case.model.eval()(x).numpy()
        found = ours.predict(x.numpy())
        np.testing.assert_allclose(found, expected, atol=2e-5, rtol=1e-4)
    state = case.model.state_dict()
    assert all(torch.equal(before[n], t) for n, t in state.items())
    assert {n: len(v) for n, v in ours.values().items()} == mask.counts


@pytest.mark.parametrize("density", [0.0, 1.0], ids=["empty", "full"])
def test_empty_and_full_layers_train(density: float) -> None:
    case = case_of("mixed")
    names = [n for n in mask_of(case.model, 0.5) if n != "head.weight"]
    state = case.model.state_dict()
    mask = Mask({n: np.full(state[n].shape, density == 1.0) for n in names})
    assert three_steps(case, mask, "momentum") < 1e-4


def test_functional_dropout_follows_the_mode() -> None:
    case = case_of("vgg")
    case.model.dropped = 0.5  # type: ignore[assignment]
    ours = loaded(case, Mask({}))
    x, y = case.inputs.numpy(), case.targets.numpy()
    np.testing.assert_array_equal(ours.predict(x), ours.predict(x))
    assert ours.backward(x, y, draw=1) != ours.backward(x, y, draw=2)


class Spare(nn.Module):
    """Counters, an empty buffer, a spare layer with a second name: none is called."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 4))
        self.register_buffer("classes", torch.tensor(4))
        self.register_buffer("empty", torch.zeros(0))
        self.register_buffer("table", torch.ones(3), persistent=False)
        self.body.register_buffer("seen", torch.zeros(2, dtype=torch.uint8))
        self.spare = nn.ModuleDict({"norm": nn.LayerNorm(4)})
        self.again = self.spare["norm"]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.body(x)
        return found


def test_entries_that_the_forward_never_uses_stay_in_the_state() -> None:
    model = Spare()
    case = Case(model, torch.randn(5, 16), torch.randint(0, 4, (5,)))
    inner = mask_of(model.body, 0.4)
    own = loaded(case, Mask({f"body.{name}": inner[name] for name in inner}))
    values, dense = own.values(), own.dense()
    assert set(values) | set(dense) == set(model.state_dict())
    own.load(values, {n: a + 1 for n, a in dense.items()})
    assert own.dense()["classes"] == 5
    assert (own.dense()["spare.norm.bias"] == 1).all()
    assert model.spare["norm"].bias.tolist() == [0, 0, 0, 0]  # it is left alone


def test_a_relu_that_flips_by_rounding_is_no_reason_to_refuse_a_program() -> None:
    """Here torch's float32 is 1e-3 of the update from float64, and the program 1e-5."""
    wide: list[nn.Module] = []
    for _ in range(6):
        wide += [nn.Conv2d(16, 16, 3, padding=1), nn.GroupNorm(4, 16), nn.ReLU()]
    torch.manual_seed(2)
    model = nn.Sequential(
        *(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), *wide),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10)),
    )
    rng = np.random.default_rng(2)
    x = rng.integers(0, 256, (8, 1, 32, 32)).astype(np.float32) / 255
    inputs, targets = torch.from_numpy(x), torch.from_numpy(rng.integers(0, 10, 8))
    found = compiled(model, F.cross_entropy, inputs, targets)
    assert found.file, found.reason


def test_a_program_that_computes_something_else_is_refused_still() -> None:
    model = nn.Linear(4, 3)
    inputs, targets = torch.randn(6, 4), torch.randint(0, 3, (6,))
    program = capture(model, F.cross_entropy, inputs, targets)

    def smoothed(out: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(out, target, label_smoothing=0.3)

    with pytest.raises(EngineError, match="3 steps of the program differ"):
        compare(program, model, smoothed, inputs, targets)


class Causal(nn.Module):
    """Attention whose mask is part of the state, of whatever type its author chose."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.qkv = nn.Linear(4, 12)
        self.out = nn.Linear(4, 3)
        self.register_buffer("allowed", torch.tril(torch.ones(6, 6)).to(dtype))
        self.register_buffer("classes", torch.tensor(3, dtype=dtype))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.qkv(x).chunk(3, -1)
        scores = (q @ k.transpose(1, 2)).masked_fill(self.allowed == 0, float("-inf"))
        return self.out((scores.softmax(-1) @ v).mean(1))


WHOLE = [torch.bool, torch.uint8, torch.int16, torch.int32, torch.int64]


@pytest.mark.parametrize("dtype", WHOLE, ids=str)
def test_entries_of_whole_numbers_come_back_as_they_were_given(
    dtype: torch.dtype,
) -> None:
    """A coordinator refuses an update whose entries have other types than its own."""
    torch.manual_seed(0)
    model = Causal(dtype)
    x, y = torch.randn(5, 6, 4), torch.tensor([0, 1, 2, 0, 1])
    case = Case(model, x, y)
    ours = loaded(case, mask_of(model, 0.5))
    ours.backward(x.numpy(), y.numpy())
    found = ours.dense()
    for name in ("allowed", "classes"):
        expected = model.state_dict()[name].numpy()
        assert found[name].dtype == expected.dtype
        np.testing.assert_array_equal(found[name], expected)
    assert found["out.bias"].dtype == np.float32
