"""Every shipped model of signals and images trains in a federation and is exported."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import coordinator
import export.api
from edge_sdk import Examples, Task
from edge_sdk.datasets.partition import save_partition
from edge_sdk.tasks import load_task
from edge_sdk.tasks.layers import layers_of

TASKS = {
    "spoken": "KeywordNet",
    "spoken-gru": "KeywordGru",
    "watch-tcn": "MotionTcn",
    "fashion-anomaly": "DenseAutoencoder",
    "fashion-denoise": "SmallUNet",
    "cifar10-mobilenetv2": "MobileNetV2Cifar",
    "cifar10-vit": "VitTiny",
}
SLOW = ("cifar10-mobilenetv2", "cifar10-vit")
NAMES = [pytest.param(n, marks=[pytest.mark.slow] if n in SLOW else []) for n in TASKS]


def examples_of(task: Task, count: int, folder: Path, seed: int) -> Examples:
    """Random signals, or images that the task itself reads from a folder."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, len(task.labels) or 10, count)
    if task.name.startswith("fashion"):
        pixels = rng.integers(0, 255, (count, 1, 28, 28)).astype(np.uint8)
        save_partition(folder, Examples(pixels, labels))
        found: Examples = task.train_data(folder)
        return found
    if task.name.startswith("cifar10"):
        shape = (count, *task.input_shape)
        return Examples(rng.integers(0, 255, shape).astype(np.uint8), labels)
    signals = rng.standard_normal((count, *task.input_shape)).astype(np.float32)
    return Examples(signals, labels)


@pytest.mark.parametrize("name", NAMES)
def test_a_shipped_model_trains_in_a_federation_and_is_exported(
    name: str, tmp_path: Path
) -> None:
    task = load_task(name)
    assert type(task.model()).__name__ == TASKS[name]
    if name.startswith("cifar10"):
        task = replace(task, augment=None, name="own")
    devices = [examples_of(task, 2, tmp_path / f"{n}", n) for n in range(2)]
    run = coordinator.simulate(
        task if name.startswith("cifar10") else name,
        devices=devices, evaluation=devices[0], rounds=1, densities=[0.2],
        warm_up={"epochs": 1}, training={"epochs": 1, "batch_size": 2},
        folder=tmp_path / "run", workers=0,
        engine="torch" if name in SLOW else "auto",  # compiles for long
    )  # fmt: skip
    model = run.model(0.2)
    layers = layers_of(task.model(), task.dense_layers)
    kept = sum(int((model.get_parameter(s.name) != 0).sum()) for s in layers)
    assert 0 < kept <= 0.2 * sum(s.numel for s in layers) + len(layers)
    inputs = torch.from_numpy(devices[0].inputs)
    prepared = task.prepare(inputs)[:1] if task.prepare else inputs[:1]
    report = export.api.build(
        model, tmp_path / "model.onnx", format="onnx-sparse",
        input_shape=tuple(prepared.shape[1:]), calibration=prepared,
    )  # fmt: skip
    assert (tmp_path / "model.onnx").stat().st_size > 0
    assert report
