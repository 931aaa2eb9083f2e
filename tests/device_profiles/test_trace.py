from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from patience import patience
from torch import nn

from edge_sdk.errors import TaskError
from edge_sdk.tasks import Examples, Task, load_task
from edge_sdk.tasks.cost import workload_of
from edge_sdk.tasks.trace import trace_step
from edge_sdk.zoo import MnistNet, ResNet20


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
    assert (load.steps, load.input_bytes) == (8, 784)
    assert load.operators == 25


def test_counting_does_not_import_torchs_compiler() -> None:
    """69 MiB of a coordinator, and seconds of its start, for nothing."""
    program = (
        "import sys; from edge_sdk.tasks.cost import workload_of; "
        "from edge_sdk.tasks.task import load_task; "
        "workload_of(load_task('digits'), examples=8, epochs=1, batch=8); "
        "sys.exit('torch._dynamo' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=patience(120))


class Words(nn.Module):
    """Token ids, which no float can stand for."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.place = nn.Embedding(50, 8), nn.Embedding(12, 8)
        self.out = nn.Linear(8, 3)

    def forward(self, ids: torch.Tensor) -> dict[str, torch.Tensor]:
        where = self.place(torch.arange(ids.shape[1]))
        return {"words": self.out((self.words(ids) + where).mean(1))}


class Hidden(nn.Module):
    """What a boolean mask leaves; it takes nothing else."""

    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Linear(6, 3)

    def forward(self, mask: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.out(torch.ones(mask.shape).masked_fill(mask, 0.0))
        return found


def _task(model: type[nn.Module], inputs: np.ndarray[Any, Any], **more: Any) -> Task:
    examples = Examples(inputs, np.arange(len(inputs)) % 3)

    def loss(out: Any, aim: torch.Tensor) -> torch.Tensor:
        return nn.functional.cross_entropy(
            out["words"] if isinstance(out, dict) else out, aim
        )

    return Task(
        name="own",
        model=model,
        loss=loss,
        train_data=lambda _: examples,
        eval_data=lambda _: examples,
        input_shape=inputs.shape[1:],
        **more,
    )


@pytest.mark.parametrize(
    "task",
    [
        _task(Words, np.arange(120).reshape(10, 12) % 50),
        _task(Words, (np.arange(120).reshape(10, 12) % 50).astype(np.uint8)),
        _task(Hidden, np.arange(60).reshape(10, 6) % 2 > 0),
        _task(
            Words,
            np.arange(120).reshape(10, 12) % 50,
            example_inputs=lambda count: torch.ones(count, 12, dtype=torch.int64),
        ),
    ],
    ids=["tokens", "tokens of 8 bits", "a mask", "stated"],
)
def test_a_plan_is_the_same_with_data_and_without(task: Task, tmp_path: Path) -> None:
    """The coordinator has evaluation examples, `plan` has none, a board has its own."""
    known = {"examples": 10, "epochs": 1, "batch": 4}
    bare = workload_of(task, **known)
    given = workload_of(task, **known, given=task.read_train(tmp_path))
    assert bare == given
    assert bare.layers[-1].macs > 0


def test_what_no_made_up_input_fits_is_said_with_the_remedy() -> None:
    task = _task(Hidden, np.zeros((4, 7), np.bool_))
    with pytest.raises(TaskError, match="neither floats nor small integers") as caught:
        workload_of(task, examples=4, epochs=1, batch=4)
    assert "example_inputs" in caught.value.help
