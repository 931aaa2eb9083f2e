"""The autoencoder's task, and that of the transformer, as programs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from edge_sdk.program.capture import capture
from edge_sdk.program.model import ProgramModel
from edge_sdk.program.optimizers import FlatSgd
from edge_sdk.sparse import Mask
from edge_sdk.tasks.layers import initial_state, layers_of
from edge_sdk.tasks.task import load_task


def test_the_autoencoder_rebuilds_what_is_normal_and_not_the_rest(
    tmp_path: Path,
) -> None:
    task = load_task("edge_sdk.zoo.tasks.anomaly:task")
    rng = np.random.default_rng(0)
    parts = rng.random((3, 28, 28)) ** 4  # images that are made of three
    mixed = np.einsum("ni,ihw->nhw", rng.random((192, 3)), parts)
    images = (255 * mixed / mixed.max()).astype(np.uint8)[:, None]
    np.savez(tmp_path / "train.npz", inputs=images, targets=np.zeros(192, np.int64))
    examples = task.train_data(tmp_path)
    assert examples.inputs is examples.targets
    x = np.asarray(examples.inputs, np.float32)
    few = torch.from_numpy(x[:4])
    model = ProgramModel(capture(task.model(), task.loss, few, few), Mask({}))
    model.load({}, initial_state(task, 1))
    optimizer = FlatSgd(model.kernels, rate=0.05, momentum=0.9)
    losses = []
    for _ in range(60):
        losses.append(model.backward(x, x))
        optimizer.step(model.weight_vector, model.gradient_vector)
    assert losses[-1] < 0.5 * losses[0]
    strange = rng.permutation(x.T).T.copy()  # the same values in other places

    def error(batch: np.ndarray) -> float:
        return float(((model.predict(batch) - batch) ** 2).mean())

    assert error(strange) > 2 * error(x)


def test_the_transformer_of_cifar_keeps_its_first_and_last_layer_dense() -> None:
    task = load_task("edge_sdk.zoo.tasks.cifar10:vit")
    names = {layer.name for layer in layers_of(task.model(), task.dense_layers)}
    assert len(names) == 24
    assert "patches.weight" not in names
    assert "head.weight" not in names
