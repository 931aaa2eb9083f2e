import sys
from pathlib import Path
from typing import Any

import native_graphs
import numpy as np
import pytest

from edge_sdk.checkpoint import Checkpoint, save_checkpoint
from edge_sdk.sparse import LayerShape, draw, erk, exact_counts


@pytest.fixture(autouse=True)
def graphs_of_a_test_are_the_same_in_any_order() -> None:
    """A graph near a limit failed where other tests had drawn before it."""
    native_graphs.RNG.bit_generator.state = np.random.default_rng(7).bit_generator.state


TASK = '''
import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from edge_sdk.tasks.task import Examples, Task


class Net(nn.Module):
    """conv + bn + relu + pool, residual add, depthwise, two linear layers."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(1, 16, 3, padding=1)
        self.stem_norm = nn.BatchNorm2d(16)
        self.body = nn.Conv2d(16, 16, 3, padding=1, bias=False)
        self.body_norm = nn.BatchNorm2d(16)
        self.depthwise = nn.Conv2d(16, 16, 3, padding=1, groups=16, bias=False)
        self.depthwise_norm = nn.BatchNorm2d(16)
        self.hidden = nn.Linear(16, 64)
        self.hidden_norm = nn.BatchNorm1d(64)
        self.out = nn.Linear(64, 10)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.stem_norm(self.stem(x))), 2)
        x = F.relu(x + self.body_norm(self.body(x)))
        x = F.relu6(self.depthwise_norm(self.depthwise(x)))
        x = F.adaptive_avg_pool2d(x, 1).flatten(1)
        return self.out(F.relu(self.hidden_norm(self.hidden(x))))


class Sequence(nn.Module):
    """A linear layer on three axes: exported as MatMul with its weight transposed."""

    def __init__(self):
        super().__init__()
        self.each = nn.Linear(12, 24)
        self.out = nn.Linear(24, 10)

    def forward(self, x):
        return self.out(F.relu(self.each(x)).mean(1))


def _examples(folder):
    with np.load(folder / "eval.npz") as file:
        return Examples(file["inputs"], file["targets"])


def _prepare(inputs):
    return inputs.float().div(255).sub(0.5).div(0.25).reshape(-1, 1, 12, 12)


LABELS = tuple("abcdefghij")
net = Task(
    name="tiny", model=Net, loss=F.cross_entropy, train_data=_examples,
    eval_data=_examples, input_shape=(1, 12, 12), labels=LABELS, prepare=_prepare,
)
sequence = Task(
    name="tiny-sequence", model=Sequence, loss=F.cross_entropy, train_data=_examples,
    eval_data=_examples, input_shape=(5, 12), labels=LABELS,
)
'''


@pytest.fixture(scope="session", autouse=True)
def tiny_task(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The tiny tasks, importable as `flash_tiny_task:net` and `:sequence`."""
    folder = tmp_path_factory.mktemp("tasks")
    (folder / "flash_tiny_task.py").write_text(TASK)
    sys.path.insert(0, str(folder))
    yield
    sys.path.remove(str(folder))


def make_checkpoint(reference: str, density: float, seed: int = 5) -> Checkpoint:
    import torch
    from torch import nn

    from edge_sdk.tasks.task import load_task

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = load_task(reference).model()
        for module in model.modules():
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.2)
                module.running_var.uniform_(0.5, 2.0)
                module.weight.data.normal_(0.0, 1.0)  # negative scales give -0.0
                module.bias.data.normal_(0.0, 0.2)
    state = {name: t.numpy() for name, t in model.state_dict().items()}
    layers = tuple(
        LayerShape(f"{n}.weight", tuple(m.weight.shape), getattr(m, "groups", 1))
        for n, m in model.named_modules()
        if isinstance(m, nn.Conv2d | nn.Linear)
    )
    mask = draw(layers, exact_counts(erk(layers), layers, density), seed)
    return Checkpoint(
        task=reference,
        round_no=7,
        layers=layers,
        mask=mask,
        values={s.name: state[s.name][mask[s.name]] for s in layers},
        dense={n: a for n, a in state.items() if n not in mask.layers},
        metrics={"accuracy": 0.5},
    )


@pytest.fixture(scope="session")
def checkpoint(tiny_task: None) -> Checkpoint:
    return make_checkpoint("flash_tiny_task:net", 0.3)


@pytest.fixture(scope="session")
def sequence_checkpoint(tiny_task: None) -> Checkpoint:
    return make_checkpoint("flash_tiny_task:sequence", 0.3)


@pytest.fixture(scope="session")
def checkpoint_file(
    checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    path = tmp_path_factory.mktemp("checkpoint") / "tiny.safetensors"
    save_checkpoint(path, checkpoint)
    return path


@pytest.fixture(scope="session")
def data_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Evaluation examples for the tiny task: 200 random images, uint8."""
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.Generator(np.random.Philox(3))
    inputs = rng.integers(0, 256, (200, 12, 12), np.uint8)
    np.savez(folder / "eval.npz", inputs=inputs, targets=np.arange(200) % 10)
    return folder


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> tuple[Checkpoint, Path]:
    """A sparse digits model trained for a moment, and its evaluation folder."""
    import torch
    from torch.nn.functional import cross_entropy

    from edge_sdk.datasets.partition import save_partition
    from edge_sdk.datasets.shipped import load_digits
    from edge_sdk.tasks.layers import layers_of
    from edge_sdk.tasks.task import load_task

    task = load_task("digits")
    train, evaluation = load_digits()
    folder = tmp_path_factory.mktemp("digits")
    save_partition(folder, evaluation, part="eval")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = task.model()
        layers = layers_of(model, task.dense_layers)
        mask = draw(layers, exact_counts(erk(layers), layers, 0.3), 1)
        keep = {n: torch.from_numpy(mask[n].copy()) for n in mask}
        weights = dict(model.named_parameters())
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        inputs = task.prepare(torch.from_numpy(train.inputs))
        targets = torch.from_numpy(train.targets)
        for step in range(120):
            with torch.no_grad():
                for name, pattern in keep.items():
                    weights[name] *= pattern
            index = torch.arange(step * 64, step * 64 + 64) % len(inputs)
            optimizer.zero_grad()
            cross_entropy(model(inputs[index]), targets[index]).backward()
            optimizer.step()
    state = {n: t.detach().numpy() for n, t in model.state_dict().items()}
    checkpoint = Checkpoint(
        task="digits",
        round_no=3,
        layers=layers,
        mask=mask,
        values={n: state[n][mask[n]] for n in mask},
        dense={n: a for n, a in state.items() if n not in mask.layers},
        metrics={},
    )
    return checkpoint, folder
