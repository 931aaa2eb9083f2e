"""Tasks of two modules: read and prepared without torch, the same bits with it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from edge_sdk import by_name, load_task
from edge_sdk.errors import TaskError
from edge_sdk.tasks.batch import augmented, tensors
from edge_sdk.zoo.tasks.cifar10 import MEAN as MEANS
from edge_sdk.zoo.tasks.cifar10 import STD as STDS
from edge_sdk.zoo.tasks.watch import MEAN, STD

DATA = """
from pathlib import Path
import numpy as np
from edge_sdk import Examples, Task, by_name

def read(folder):
    return Examples(np.load(folder / "x.npy"), np.arange(4) % 2)

task = Task(
    name="halves", model=by_name("halves_model:Net"), loss=by_name("halves_model:loss"),
    train_data=read, eval_data=read, input_shape=(3,), prepare=lambda x: x * 2,
    augment=lambda x, noise: x + noise.normal(size=x.shape),
)
"""
MODEL = """
import torch
class Net(torch.nn.Sequential):
    def __init__(self):
        super().__init__(torch.nn.Linear(3, 2))
loss = torch.nn.functional.cross_entropy
"""
READ = """
import sys; sys.modules["torch"] = None
from pathlib import Path
from edge_sdk import load_task
from edge_sdk.errors import EdgeError
from edge_sdk.tasks.without_torch.batch import prepared_array
try:
    task = load_task("halves:task", beside=Path("."))
    found = task.read_train(Path("."))
    print(prepared_array(task, found.inputs[:1]).tolist())
    task.model()
except EdgeError as error:
    print(error, "|", error.help)
"""


def two_modules(folder: Path, inputs: np.ndarray, data: str = DATA) -> None:
    (folder / "halves.py").write_text(data, "utf-8")
    (folder / "halves_model.py").write_text(MODEL, "utf-8")
    np.save(folder / "x.npy", inputs)


def without_torch(folder: Path) -> list[str]:
    run = [sys.executable, "-c", READ]
    done = subprocess.run(run, cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.splitlines()


def test_the_data_half_is_read_and_prepared_without_torch(tmp_path: Path) -> None:
    two_modules(tmp_path, np.ones((4, 3), np.float32))
    prepared, refused = without_torch(tmp_path)
    assert prepared == "[[2.0, 2.0, 2.0]]"
    assert "halves_model:Net, named by a task, imports torch" in refused
    assert "by_name" in refused


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ("import torch\n" + DATA, "task halves:task imports torch"),
        ("import torch.nn as nn\n" + DATA, "task halves:task imports torch"),
        ("import halves_model\n" + DATA, "task halves:task imports torch"),
        (DATA.replace('by_name("halves_model:Net")', "lambda: None"), "is written for"),
        (DATA.replace("(3,)", "(5,)"), "the task says input_shape = (5,)"),
        (DATA.replace("x * 2", "list(x)"), "prepare gives"),
        (DATA.replace("x * 2", "x[:0]"), "prepare gives 0 rows for 1 examples"),
        (DATA.replace("x * 2", "1 / 0"), "ZeroDivisionError"),
    ],
)
def test_what_a_board_without_torch_cannot_use_is_one_sentence(
    tmp_path: Path, data: str, said: str
) -> None:
    two_modules(tmp_path, np.ones((4, 3), np.float32), data)
    (found,) = without_torch(tmp_path)
    assert said in found
    assert "|" in found
    assert found.partition("|")[2].strip()


def test_examples_that_are_not_finite_are_refused_without_torch(tmp_path: Path) -> None:
    inputs = np.ones((4, 3), np.float32)
    inputs[2, 1] = np.nan
    two_modules(tmp_path, inputs)
    (found,) = without_torch(tmp_path)
    assert "1 of 4 inputs hold a NaN or an infinity, the first is example 2" in found


def test_both_halves_make_one_task_where_torch_is(tmp_path: Path) -> None:
    two_modules(tmp_path, np.ones((4, 3), np.float32))
    task = load_task("halves:task", beside=tmp_path)
    examples = task.read_train(tmp_path)
    inputs, targets = tensors(task, examples, slice(0, 2))
    assert torch.equal(inputs, torch.full((2, 3), 2.0))
    assert task.loss(task.model()(inputs), targets).shape == ()
    draws = [
        augmented(task, inputs, torch.Generator().manual_seed(seed))
        for seed in (1, 1, 2)
    ]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


def test_a_name_of_nothing_says_so() -> None:
    with pytest.raises(TaskError, match="is not module:object"):
        by_name("my_model.Net")
    for reference in ("no_such_module_here:Net", "math:no_such", "math:pi"):
        with pytest.raises(TaskError, match=reference):
            by_name(reference)()


IMAGES = np.arange(17 * 784).reshape(17, 1, 28, 28).astype(np.uint8)
DIGITS = (np.arange(17 * 64) % 17).reshape(17, 1, 8, 8).astype(np.uint8)
SIGNAL = np.random.default_rng(0).normal(size=(20, 6, 100)).astype(np.float32)


@pytest.mark.parametrize(
    ("name", "raw", "expected"),
    [
        ("mnist", IMAGES, lambda x: (x.float() / 255.0 - 0.1307) / 0.3081),
        ("fashion", IMAGES, lambda x: (x.float() / 255.0 - 0.2860) / 0.3530),
        ("femnist", IMAGES, lambda x: (x.float() / 255.0 - 0.0) / 1.0),
        ("digits", DIGITS, lambda x: (x.float() - 4.88) / 6.02),
        ("spoken", SIGNAL, lambda x: x / 4.78),
        ("watch", SIGNAL, lambda x: (x - torch.tensor(MEAN)[:, None])
         / torch.tensor(STD)[:, None]),
    ],
)  # fmt: skip
def test_shipped_tasks_prepare_in_numpy_the_bits_that_torch_gave(
    name: str, raw: np.ndarray, expected
) -> None:
    task = load_task(name)
    wanted = expected(torch.from_numpy(raw.copy()))
    assert torch.equal(task.prepare(torch.from_numpy(raw.copy())), wanted)
    assert np.array_equal(task.prepare(raw), wanted.numpy())


def test_cifar10_is_prepared_and_cropped_by_the_draws_that_it_had() -> None:
    task, mean, std = load_task("cifar10"), torch.tensor(MEANS), torch.tensor(STDS)
    raw = torch.arange(5 * 3072).remainder(256).to(torch.uint8).reshape(5, 3, 32, 32)
    mean, std = mean[:, None, None], std[:, None, None]
    inputs = task.prepare(raw)
    assert torch.equal(inputs, (raw.float() / 255.0 - mean) / std)
    assert np.array_equal(task.prepare(raw.numpy()), inputs.numpy())
    black, noise = -mean / std, torch.Generator().manual_seed(7)
    padded = torch.nn.functional.pad(inputs - black, (4,) * 4) + black
    corner = torch.randint(0, 9, (5, 2), generator=noise).tolist()
    mirrored = (torch.rand(5, generator=noise) < 0.5).tolist()
    wanted = torch.stack([
        padded[i, :, row : row + 32, column : column + 32].flip(2)
        if mirrored[i] else padded[i, :, row : row + 32, column : column + 32]
        for i, (row, column) in enumerate(corner)
    ])  # fmt: skip
    found = augmented(task, inputs, torch.Generator().manual_seed(7))
    assert torch.equal(found, wanted)
    array = task.augment(inputs.numpy(), np.random.default_rng(1))
    assert array.shape == inputs.shape
    assert array.dtype == np.float32
