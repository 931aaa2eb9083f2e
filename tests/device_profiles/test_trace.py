from __future__ import annotations

import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from torch import nn

from edge_sdk.errors import TaskError
from edge_sdk.models import load_task
from edge_sdk.models.cost import workload_of
from edge_sdk.models.trace import trace_step
from edge_sdk.models.zoo import MnistNet, ResNet20


class Module(nn.Module):
    """Activations as modules."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()
        )
        self.head = nn.Linear(8 * 16, 5)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(inputs))


class Functional(nn.Module):
    """The same network, written with functions."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.head = nn.Linear(8 * 16, 5)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        maps = F.max_pool2d(F.relu(self.conv(inputs)), 2)
        return self.head(torch.flatten(maps, 1))


def test_functions_count_like_modules() -> None:
    one, other = trace_step(Module(), (3, 8, 8)), trace_step(Functional(), (3, 8, 8))
    assert list(one.macs.values()) == list(other.macs.values()) == [13_824, 640]
    for field in (
        "operators",
        "example_bytes",
        "kernel_bytes",
        "saved_bytes",
        "compares",
        "activations",
    ):
        assert getattr(one, field) == getattr(other, field), field


def test_known_networks_have_their_known_arithmetic() -> None:
    """MnistNet's maps are 24x24 and 18x18; ResNet-20 has 40.55 M multiplications."""
    mnist = trace_step(MnistNet(), (1, 28, 28))
    assert mnist.macs == {
        "conv1.weight": 250 * 24 * 24,
        "conv2.weight": 5_000 * 18 * 18,
        "fc1.weight": 256_000,
        "fc2.weight": 500,
    }
    assert mnist.compares == 9 * (10 * 22 * 22 + 20 * 16 * 16)
    assert mnist.norm_bytes == 0
    resnet = trace_step(ResNet20(), (3, 32, 32))
    assert sum(resnet.macs.values()) == pytest.approx(40.55e6, rel=1e-3)
    assert resnet.norm_bytes > resnet.kernel_bytes > 0


def test_groups_and_a_layer_used_twice() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.depth = nn.Conv2d(4, 4, 3, padding=1, groups=4)
            self.fc = nn.Linear(4, 4)

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            maps = self.depth(self.depth(inputs))
            return self.fc(maps.mean((2, 3)))

    found = trace_step(Twice(), (4, 5, 5))
    assert found.macs == {"depth.weight": 2 * 36 * 25, "fc.weight": 16}


def test_counting_leaves_threads_and_random_numbers_alone() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5))
    before, threads = torch.random.get_rng_state(), torch.get_num_threads()
    trace_step(model, (4,))
    assert torch.equal(before, torch.random.get_rng_state())
    assert torch.get_num_threads() == threads


def test_a_model_that_cannot_run_says_which_and_on_what() -> None:
    said = "Linear: its model takes neither floats nor small integers of shape"
    with pytest.raises(TaskError, match=said):
        trace_step(nn.Linear(4, 2), (5,))


def test_a_shipped_task_becomes_a_workload() -> None:
    load = workload_of(load_task("mnist"), examples=100, epochs=2, batch=32)
    assert [layer.name for layer in load.masked_layers] == [
        "conv2.weight",
        "fc1.weight",
    ]
    assert load.masked_numel + load.dense_numel == 261_840
    assert (load.steps, load.passes, load.input_bytes) == (8, 200, 784)
    assert load.operators == 25


def test_counting_does_not_import_torchs_compiler() -> None:
    """69 MiB of a coordinator, and seconds of its start, for nothing."""
    program = (
        "import sys; from edge_sdk.models.cost import workload_of; "
        "from edge_sdk.models.task import load_task; "
        "workload_of(load_task('digits'), examples=8, epochs=1, batch=8); "
        "sys.exit('torch._dynamo' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)
