"""The shipped tasks: they load, prepare their inputs, and can be learned."""

from __future__ import annotations

import importlib
import pickle  # noqa: TID251 - process pools send tasks this way
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from edge_sdk.datasets.fetch import fetch
from edge_sdk.datasets.prepare import prepare_folders
from edge_sdk.datasets.shipped import DATASETS, load_digits, load_idx_folder
from edge_sdk.errors import DataError, TaskError
from edge_sdk.tasks import Examples, Task, load_task
from edge_sdk.tasks import user_errors as blame
from edge_sdk.tasks.layers import layers_of, make_model

MASKABLE = {
    "cifar10": 11_159_232,
    "digits": 12_800,
    "fashion": 261_000,
    "mnist": 261_000,
}


@pytest.mark.parametrize("name", DATASETS)
def test_a_task_fits_together(name: str) -> None:
    task = load_task(name)
    assert task.name == name
    raw = torch.randint(0, 17, (3, *task.input_shape), dtype=torch.uint8)
    inputs = task.prepare(raw)
    assert inputs.dtype == torch.float32
    assert tuple(inputs.shape) == (3, *task.input_shape)
    assert torch.equal(task.prepare(raw), inputs)
    model = make_model(task, 0)
    logits = model(inputs)
    assert logits.shape == (3, len(task.labels)) == (3, 10)
    assert task.loss(logits, torch.zeros(3, dtype=torch.int64)).shape == ()
    assert sum(s.numel for s in layers_of(model, task.dense_layers)) == MASKABLE[name]


@pytest.mark.parametrize("name", DATASETS)
def test_a_task_can_be_sent_to_another_process(name: str) -> None:
    task = load_task(name)
    again = pickle.loads(pickle.dumps(task))  # noqa: S301 - our own bytes
    assert (again.model, again.labels) == (task.model, task.labels)
    raw = torch.full((1, *task.input_shape), 7, dtype=torch.uint8)
    assert torch.equal(again.prepare(raw), task.prepare(raw))


@pytest.mark.parametrize("name", DATASETS)
def test_a_task_without_its_data_says_so(name: str, tmp_path: Path) -> None:
    task = load_task(name)
    with pytest.raises(DataError, match=r"holds no train\.npz"):
        task.train_data(tmp_path)
    with pytest.raises(DataError, match=r"holds no eval\.npz"):
        task.eval_data(tmp_path)


@pytest.mark.parametrize("name", ["mnist", "fashion"])
def test_black_and_white_come_out_as_normalised(name: str) -> None:
    mean, std = {"mnist": (0.1307, 0.3081), "fashion": (0.2860, 0.3530)}[name]
    raw = torch.tensor([0, 255], dtype=torch.uint8).repeat(392).reshape(1, 1, 28, 28)
    out = load_task(name).prepare(raw).flatten()[:2]
    torch.testing.assert_close(out, torch.tensor([-mean / std, (1 - mean) / std]))


def test_prepared_digits_are_centred_and_of_unit_deviation() -> None:
    train, _ = load_digits()
    out = load_task("digits").prepare(torch.from_numpy(train.inputs))
    assert abs(out.mean().item()) < 0.02
    assert out.std().item() == pytest.approx(1.0, abs=0.02)


def test_the_shipped_digits_can_be_learned_from_their_folders(tmp_path: Path) -> None:
    places = prepare_folders("digits", tmp_path, tmp_path, ["pi-1"], alpha=1.0, seed=0)
    task = load_task("digits")
    train, test = task.train_data(places["pi-1"]), task.eval_data(places["evaluation"])
    model = make_model(task, 0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    order = np.random.default_rng(0)
    for _ in range(4):
        for batch in np.array_split(order.permutation(len(train)), 45):
            picked = train.take(batch)
            inputs = task.prepare(torch.from_numpy(picked.inputs))
            loss = task.loss(model(inputs), torch.from_numpy(picked.targets))
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    with torch.no_grad():
        guess = model(task.prepare(torch.from_numpy(test.inputs))).argmax(1)
    assert (guess.numpy() == test.targets).mean() > 0.9


@pytest.mark.slow
def test_mnistnet_learns_real_digits(cache: Path) -> None:
    task = load_task("mnist")
    train, test = load_idx_folder(fetch("mnist", cache))
    model = make_model(task, 0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02)
    order = np.random.default_rng(0).permutation(len(train))[:12800]
    for batch in order.reshape(-1, 32):
        picked = train.take(batch)
        inputs = task.prepare(torch.from_numpy(picked.inputs))
        loss = task.loss(model(inputs), torch.from_numpy(picked.targets))
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    with torch.no_grad():
        guess = model(task.prepare(torch.from_numpy(test.inputs[:2000]))).argmax(1)
    # .92 to .94: processors sum in other orders.
    assert (guess.numpy() == test.targets[:2000]).mean() > 0.9


def test_femnist_masks_its_middle_layers() -> None:
    task = load_task("femnist")
    model = make_model(task, 0)
    raw = torch.randint(0, 256, (2, 1, 28, 28), dtype=torch.uint8)
    assert model(task.prepare(raw)).shape == (2, len(task.labels)) == (2, 62)
    assert sum(s.numel for s in layers_of(model, task.dense_layers)) == 6_473_728


def test_a_photograph_is_cropped_out_of_black_and_half_are_mirrored() -> None:
    task = load_task("cifar10")
    assert task.augment is not None
    raw = torch.randint(1, 256, (64, 3, 32, 32), dtype=torch.uint8)
    inputs, black = task.prepare(raw), task.prepare(torch.zeros_like(raw))
    found = task.augment(inputs, torch.Generator().manual_seed(1))
    assert torch.equal(found, task.augment(inputs, torch.Generator().manual_seed(1)))
    assert found.shape == inputs.shape
    framed = torch.nn.functional.pad(inputs - black, (4, 4, 4, 4))
    mirrored = 0
    for image, crop in zip(framed, found - black, strict=True):
        places = [
            (flip, y, x)
            for flip in (False, True)
            for y in range(9)
            for x in range(9)
            if torch.allclose(
                image[:, y : y + 32, x : x + 32], crop.flip(2) if flip else crop
            )
        ]
        assert len(places) == 1
        mirrored += places[0][0]
    assert 20 <= mirrored <= 44


def test_a_loader_that_raises_or_gives_something_else_is_named_with_its_line(
    tmp_path: Path,
) -> None:
    def absent(folder: Path) -> Examples:
        return {}[str(folder)]  # type: ignore[no-any-return]

    def pair(_folder: Path) -> Examples:
        return np.zeros(3), np.zeros(3)  # type: ignore[return-value]

    task = replace(load_task("digits"), name="own", train_data=absent, eval_data=pair)
    with pytest.raises(TaskError, match=r"task own: reading .* raised KeyError") as one:
        task.read_train(tmp_path)
    line = absent.__code__.co_firstlineno + 1
    assert str(one.value).endswith(f"(test_tasks.py, line {line})")
    with pytest.raises(TaskError, match=r"gave a tuple, not an .*Examples"):
        task.read_eval(tmp_path)


INSTALLED = """
from blame_copy import blamed

def read():
    with blamed("own", "reading"):
        int("seven")
"""


def test_blame_finds_a_line_where_all_code_is_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "site-packages"
    place.mkdir()
    (place / "blame_copy.py").write_bytes(Path(blame.__file__).read_bytes())
    (place / "installed_task.py").write_text(INSTALLED)
    monkeypatch.syspath_prepend(str(place))
    with pytest.raises(TaskError, match=r"ValueError: .*installed_task\.py, line 6\)"):
        importlib.import_module("installed_task").read()


@pytest.mark.parametrize(
    ("changed", "said", "remedy"),
    [
        ("model=nn.Linear(2, 2), loss=F.mse_loss", "model is a Linear", "lambda"),
        (
            "model=lambda: nn.Linear(2, 2), loss=nn.CrossEntropyLoss",
            "loss is the class CrossEntropyLoss",
            r"CrossEntropyLoss\(\)",
        ),
    ],
)
def test_a_model_made_already_and_a_loss_that_is_not_are_told(
    changed: str, said: str, remedy: str, tmp_path: Path
) -> None:
    name = f"mistaken_{len(changed)}"
    (tmp_path / f"{name}.py").write_text(
        "from torch import nn\nfrom torch.nn import functional as F\n"
        "from edge_sdk.tasks import Task\n"
        "task = Task(name='own', train_data=str, eval_data=str, input_shape=(2,), "
        f"{changed})\n"
    )
    with pytest.raises(TaskError, match=said) as caught:
        load_task(f"{name}:task", beside=tmp_path)
    assert re.search(remedy, caught.value.help)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"input_shape": 8}, "input_shape is 8, not"),
        ({"input_shape": None}, "input_shape is None, not"),
        ({"input_shape": "8"}, "input_shape is '8', not"),
        ({"input_shape": (8.0,)}, "not a tuple of whole"),
        ({"batch_size": 0}, "batch_size is 0, not"),
        ({"batch_size": "8"}, "batch_size is '8', not"),
    ],
)
def test_a_task_of_no_shape_or_batch_is_refused_where_it_is_made(
    given: dict[str, object], message: str
) -> None:
    base = {"name": "own", "model": len, "loss": len, "input_shape": (8,)}
    with pytest.raises(TaskError, match=message):
        Task(**{**base, **given})
