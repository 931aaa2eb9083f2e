"""Sparse checkpoints to measure exports on: trained for a moment on MNIST, then kept.

MNISTNet, McMahan's and LEAF's FEMNIST network (its 62 outputs, 10 of them used) train
100 steps of 32 images; ResNet18 trains 6 steps of 16, padded to 3 x 32 x 32: enough to
give batch norms statistics and weights their spread, not to finish. All under an ERK
mask that is drawn before the first step.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from edge_sdk.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from edge_sdk.datasets.partition import load_partition, save_partition
from edge_sdk.datasets.shipped import load_dataset
from edge_sdk.sparse import draw, erk, exact_counts
from edge_sdk.tasks.layers import layers_of
from edge_sdk.tasks.task import Examples, Task
from edge_sdk.zoo import FemnistCnn, McMahanCnn, MnistNet, ResNet18Cifar

__all__ = ["MODELS", "Recipe", "evaluation", "task_of", "trained"]

CACHE = Path("~/.cache/flash-edge").expanduser()


@dataclass(frozen=True)
class Recipe:
    """How one model is trained.

    Attributes:
        make: The model.
        shape: One prepared example.
        steps: Steps of Adam.
        batch: Images per step.
        examples: Evaluation images; half calibrate, half are scored.
    """

    make: Callable[[], nn.Module]
    shape: tuple[int, ...]
    steps: int
    batch: int
    examples: int


MODELS = {
    "mnistnet": Recipe(MnistNet, (1, 28, 28), 100, 32, 2000),
    "mcmahan": Recipe(McMahanCnn, (1, 28, 28), 100, 32, 2000),
    "femnist": Recipe(FemnistCnn, (1, 28, 28), 100, 32, 2000),
    "resnet18": Recipe(ResNet18Cifar, (3, 32, 32), 6, 16, 400),
}


def _prepare(inputs: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    images = inputs.reshape(-1, 1, 28, 28).float().div(255).sub(0.1307).div(0.3081)
    if shape[-1] == 32:
        images = F.pad(images, (2, 2, 2, 2), value=-0.1307 / 0.3081)
    return images.expand(-1, shape[0], -1, -1).contiguous()


def task_of(name: str) -> Task:
    """A task whose examples are MNIST's in the model's shape."""
    recipe = MODELS[name]
    return Task(
        name=f"{name} on MNIST",
        model=recipe.make,
        loss=F.cross_entropy,
        train_data=load_partition,
        eval_data=partial(load_partition, part="eval"),
        input_shape=recipe.shape,
        prepare=partial(_prepare, shape=recipe.shape),
    )


def evaluation(name: str, folder: Path) -> Path:
    """Writes the evaluation examples of a model into a folder."""
    _, examples = load_dataset("mnist", CACHE)
    return save_partition(folder, examples.take(np.arange(MODELS[name].examples)),
                          part="eval").parent  # fmt: skip


def trained(name: str, density: float) -> Checkpoint:
    """The model at that density; trained once, then read from the cache."""
    recipe = MODELS[name]
    file = (
        CACHE / "bench" / f"{name}-{density}-{recipe.steps}x{recipe.batch}.safetensors"
    )
    if file.exists():
        return load_checkpoint(file)
    examples, _ = load_dataset("mnist", CACHE)
    checkpoint = _train(name, density, examples)
    file.parent.mkdir(parents=True, exist_ok=True)
    save_checkpoint(file, checkpoint)
    return checkpoint


def _train(name: str, density: float, examples: Examples) -> Checkpoint:
    recipe, task = MODELS[name], task_of(name)
    torch.manual_seed(1)
    model = recipe.make()
    layers = layers_of(model, frozenset())
    mask = draw(layers, exact_counts(erk(layers), layers, density), 1)
    keep = {n: torch.from_numpy(mask[n].copy()) for n in mask}
    weights = dict(model.named_parameters())
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    order = np.random.default_rng(1).permutation(len(examples))
    for step in range(recipe.steps):
        index = order[step * recipe.batch : (step + 1) * recipe.batch]
        with torch.no_grad():
            for layer, pattern in keep.items():
                weights[layer] *= pattern
        batch = examples.take(index)
        outputs = model(task.prepare(torch.from_numpy(batch.inputs)))
        optimizer.zero_grad()
        F.cross_entropy(outputs, torch.from_numpy(batch.targets)).backward()
        optimizer.step()
    state = {n: t.detach().numpy().copy() for n, t in model.state_dict().items()}
    return Checkpoint(
        task=name,
        round_no=0,
        layers=layers,
        mask=mask,
        values={s.name: state[s.name][mask[s.name]] for s in layers},
        dense={n: a for n, a in state.items() if n not in mask.layers},
        metrics={},
    )
