"""Examples of every dtype that numpy makes: cast where it is exact, else refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 - its usual name

from edge_sdk.datasets.partition import load_partition
from edge_sdk.errors import DataError, EdgeError, TaskError
from edge_sdk.tasks import Examples, Task
from edge_sdk.tasks.batch import augmented, tensors

RNG = np.random.default_rng(4)
X = RNG.normal(size=(40, 6)).astype(np.float32)
Y = RNG.integers(0, 3, 40)


def dense() -> nn.Module:
    return nn.Linear(6, 3)


def bce_net() -> nn.Module:
    return nn.Linear(6, 1)


class Words(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words, self.out = nn.Embedding(50, 8), nn.Linear(8, 3)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.out(self.words(ids).mean(1))
        return found


def of(inputs: Any, targets: Any, **changes: Any) -> Task:
    base = Task(
        name="own",
        model=dense,
        loss=F.cross_entropy,
        train_data=lambda _: Examples(inputs, targets),
        eval_data=lambda _: Examples(inputs, targets),
        input_shape=(6,),
    )
    return replace(base, **changes)


def readonly(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    array = array.copy()
    array.flags.writeable = False
    return array


def passes_over(out: torch.Tensor, aim: torch.Tensor) -> torch.Tensor:
    return torch.where(aim.isnan(), out - out, out - aim.nan_to_num()).square().mean()


IDS = RNG.integers(0, 50, (40, 6))
TAKEN: dict[str, Callable[[], Task]] = {
    "float64 inputs": lambda: of(X.astype("f8"), Y),
    "float16 inputs": lambda: of(X.astype("f2"), Y),
    "big-endian inputs": lambda: of(X.astype(">f4"), Y),
    "big-endian doubles": lambda: of(X.astype(">f8"), Y.astype(">i4")),
    "Fortran order": lambda: of(np.asfortranarray(X), Y),
    "backwards": lambda: of(X[::-1], Y[::-1]),
    "every second": lambda: of(np.repeat(X, 2, 0)[::2], np.repeat(Y, 2)[::2]),
    "read-only": lambda: of(readonly(X), readonly(Y)),
    "integer inputs": lambda: of((X * 9).astype("i2"), Y),
    "uint8 inputs": lambda: of((X * 9).astype("u1"), Y),
    "uint16 inputs": lambda: of((np.abs(X) * 999).astype("u2"), Y),
    "boolean inputs": lambda: of(X > 0, Y),
    "int32 classes": lambda: of(X, Y.astype("i4")),
    "uint8 classes": lambda: of(X, Y.astype("u1")),
    "int8 classes": lambda: of(X, Y.astype("i1")),
    "uint64 classes": lambda: of(X, Y.astype("u8")),
    "float classes": lambda: of(X, Y.astype("f8")),
    "boolean classes": lambda: of(X, Y > 0),
    "ignored classes": lambda: of(X, np.where(Y > 1, -100, Y)),
    "a list of classes": lambda: of(X, Y.tolist()),
    "tensors": lambda: of(torch.from_numpy(X), torch.from_numpy(Y)),
    "boolean labels": lambda: of(
        X, X[:, :3] > 0, loss=F.binary_cross_entropy_with_logits
    ),
    "integer answers": lambda: of(
        *(X, (X[:, :1] > 0).astype("i8")),
        model=bce_net,
        loss=F.binary_cross_entropy_with_logits,
    ),
    "integer values": lambda: of(X, (X[:, :3] * 9).astype("i4"), loss=F.mse_loss),
    "double values": lambda: of(X, X[:, :3].astype("f8"), loss=F.mse_loss),
    "one example": lambda: of(X[:1], Y[:1], model=lambda: nn.Sequential(
        nn.Linear(6, 3), nn.BatchNorm1d(3))),
    "token ids": lambda: of(IDS, Y, model=Words),
    "token ids of 32 bits": lambda: of(IDS.astype("i4"), Y, model=Words),
    "token ids of 8 bits": lambda: of(IDS.astype("u1"), Y, model=Words),
    "token ids as floats": lambda: of(IDS.astype("f4"), Y, model=Words),
    "a double model": lambda: of(X, Y, model=lambda: nn.Linear(6, 3).double()),
    "holes that prepare fills": lambda: of(
        np.where(X > 2, np.nan, X), Y, prepare=torch.nan_to_num
    ),
    "holes that the loss passes over": lambda: of(
        *(X, np.where(X[:, :3] > 1, np.nan, X[:, :3])),
        loss=passes_over,
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", TAKEN)
def test_what_numpy_makes_is_cast_where_that_is_exact(
    case: str, tmp_path: Path
) -> None:
    task = TAKEN[case]()
    examples = task.read_train(tmp_path)
    inputs, targets = tensors(task, examples, slice(0, 8))
    model = task.model()
    task.loss(model(inputs.repeat(2, 1)), targets.repeat(2, *[1] * (targets.dim() - 1))).backward()  # fmt: skip  # noqa: E501
    raw = np.nan_to_num(np.asarray(examples.inputs[:8], np.float64))
    assert np.allclose(inputs.double().nan_to_num(), raw, atol=2e-3, rtol=1e-3)


LATE = 1.7e9 + RNG.random((40, 6)) * 500
TURNED_AWAY: dict[str, tuple[Callable[[], Task], str]] = {
    "seconds since 1970": (lambda: of(LATE, Y), "inputs are float64, the model is fl"),
    "too large for float32": (lambda: of(X.astype("f8") * 1e200, Y), "above its range"),
    "integers above 2**24": (
        lambda: of(np.arange(240).reshape(40, 6) + 2**40, Y),
        "inputs are int64, the model is float32",
    ),
    "text": (lambda: of(X, np.array(list("abcd") * 10)), "targets are text"),
    "objects": (lambda: of(X.astype(object), Y), "Python objects"),
    "records": (lambda: of(np.zeros(40, [("a", "f4")]), Y), "records with the f"),
    "complex": (lambda: of(X.astype("c8"), Y), "complex numbers"),
    "dates": (lambda: of(np.zeros((40, 6), "M8[s]"), Y), "dates"),
    "long doubles": (lambda: of(X.astype(np.longdouble), Y), "float128|longdouble"),
    "two inputs": (lambda: of((X, X), Y), "inputs are a tuple, not one array"),
    "ragged": (lambda: of([[1.0], [1.0, 2.0]], Y[:2]), "inputs do not make an array"),
    "one number": (lambda: of(np.float32(1), Y), "single number"),
    "no examples": (lambda: of(X[:0], Y[:0]), "there are no examples"),
    "39 targets": (lambda: of(X, Y[1:]), "40 inputs but 39 targets"),
    "NaN": (lambda: of(np.where(X > 2, np.nan, X), Y), r"\d of 40 inputs hold a NaN"),
    "infinite targets": (
        lambda: of(X, np.where(X[:, :3] > 2, np.inf, 0), loss=F.mse_loss),
        r"of 40 targets hold a NaN or an inf",
    ),
    "a class too many": (lambda: of(X, Y + 1), "Target 3 is out of bounds"),
    "a negative class": (lambda: of(X, Y - 1), "Target -1 is out of bounds"),
    "a token too many": (
        lambda: of(IDS + 3, Y, model=Words),
        r"index out of range.*inputs are int64 \(6,\) from \d to 5\d",
    ),
    "whole floats in part": (lambda: of(IDS + 0.5, Y, model=Words), "indices"),
    "another shape": (lambda: of(X[:, :5], Y), r"have shape \(5,\).*input_shape = \(6"),
    "another width": (lambda: of(X, Y, model=lambda: nn.Linear(7, 3)), "40|shapes"),
    "no loss": (lambda: of(X, Y, loss=lambda o, t: None), "loss gives None"),
    "a loss each": (
        lambda: of(X, Y, loss=lambda o, t: F.cross_entropy(o, t, reduction="none")),
        r"a tensor of shape \(\d,\), not one number",
    ),
    "a loss as a number": (
        lambda: of(X, Y, loss=lambda o, t: F.cross_entropy(o, t).item()),
        "loss gives a float, not a tensor",
    ),
    "a loss cut off": (
        lambda: of(X, Y, loss=lambda o, t: F.cross_entropy(o, t).detach()),
        "loss has no gradient",
    ),
    "a model that raises": (
        lambda: of(X, Y, model=lambda: nn.Linear(6)),  # type: ignore[call-arg]
        "making the model raised TypeError",
    ),
    "no output": (lambda: of(X, Y, model=Nothing), "model returns None"),
    "prepare of two": (
        lambda: of(X, Y, prepare=lambda x: (x, x)),
        "prepare gives a tuple, not a tensor",
    ),
}


class Nothing(nn.Linear):
    def __init__(self) -> None:
        super().__init__(6, 3)

    def forward(self, x: torch.Tensor) -> Any:
        super().forward(x)


@pytest.mark.parametrize("case", TURNED_AWAY)
def test_what_no_model_takes_is_refused_where_it_is_read(
    case: str, tmp_path: Path
) -> None:
    """In one sentence that names the task and the folder, and no file of ours."""
    make, why = TURNED_AWAY[case]
    task = make()
    for read in (task.read_train, task.read_eval):
        with pytest.raises((DataError, TaskError), match=why) as caught:
            read(tmp_path)
        said = f"{caught.value} {caught.value.help}"
        assert "own" in str(caught.value)
        assert "\n" not in said
        for ours in ("casts.py", "trial.py", "arrays.py", "task.py", "local.py"):
            assert ours not in said


def test_a_value_out_of_range_is_found_wherever_it_lies(tmp_path: Path) -> None:
    """Also after another folder of the same form has passed."""
    task = of(X, Y)
    task.read_train(tmp_path)
    late = Y.copy()
    late[17] = 3
    other = replace(task, train_data=lambda _: Examples(X, late))
    with pytest.raises(TaskError, match="Target 3"):
        other.read_train(tmp_path)
    folders = {"a": Y, "b": late}
    both = replace(task, train_data=lambda f: Examples(X, folders[f.name]))
    both.read_train(tmp_path / "a")
    with pytest.raises(TaskError, match="Target 3"):
        both.read_train(tmp_path / "b")


def test_a_line_of_the_tasks_own_is_the_one_named(tmp_path: Path) -> None:
    def broken(out: torch.Tensor, aim: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(out[:1], aim)

    with pytest.raises(TaskError, match=r"test_fitting\.py, line \d+"):
        of(X, Y, loss=broken).read_train(tmp_path)


class Named(nn.Module):
    def __init__(self, form: str) -> None:
        super().__init__()
        self.what, self.where, self.form = nn.Linear(6, 3), nn.Linear(6, 2), form

    def forward(self, x: torch.Tensor) -> Any:
        what, where = self.what(x), self.where(x)
        return {"what": what, "where": where} if self.form == "dict" else (what, where)


@pytest.mark.parametrize("form", ["dict", "tuple"])
def test_several_outputs_are_the_losss_to_take_apart(form: str, tmp_path: Path) -> None:
    def loss(out: Any, aim: torch.Tensor) -> torch.Tensor:
        what, where = (out["what"], out["where"]) if form == "dict" else out
        return F.cross_entropy(what, aim) + 0.1 * where.square().mean()

    task = of(X, Y, model=lambda: Named(form), loss=loss)
    assert task.read_train(tmp_path).casts is not None
    with pytest.raises(TaskError, match="one step on them raised"):
        replace(task, loss=F.cross_entropy).read_train(tmp_path)


def test_a_memory_map_stays_one(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", X.astype(">f8"))
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    task = of(mapped, Y)
    found = task.read_train(tmp_path)
    assert isinstance(found.inputs, np.memmap)
    assert tensors(task, found, slice(0, 4))[0].dtype == torch.float32


@pytest.mark.parametrize(
    ("arrays", "why"),
    [
        ({"inputs": np.array([{}, {}]), "targets": Y[:2]}, "holds objects of Python"),
        ({"inputs": X, "targets": np.array(["a"] * 40)}, "targets are text"),
        ({"inputs": X[:0], "targets": Y[:0]}, "no examples"),
        ({"inputs": X, "targets": Y[:3]}, "40 inputs but 3 targets"),
        ({"x": X, "y": Y}, "inputs"),
    ],
)
def test_a_partition_file_is_named(
    tmp_path: Path, arrays: dict[str, Any], why: str
) -> None:
    np.savez(tmp_path / "train.npz", **arrays)
    task = of(X, Y, train_data=load_partition)
    with pytest.raises(EdgeError, match=why) as caught:
        task.read_train(tmp_path)
    assert str(tmp_path / "train.npz") in str(caught.value)


def halves(inputs: torch.Tensor, _: torch.Generator) -> torch.Tensor:
    return inputs[:, :3]


def as_array(inputs: torch.Tensor, _: torch.Generator) -> Any:
    return inputs.numpy()


@pytest.mark.parametrize(
    ("augment", "said"), [(halves, r"shape \(3,\)"), (as_array, "a ndarray")]
)
def test_an_augment_of_another_form_is_refused_where_examples_are_read(
    augment: Any, said: str, tmp_path: Path
) -> None:
    with pytest.raises(TaskError, match=f"augment gives {said}"):
        of(X, Y, augment=augment).read_train(tmp_path)


def test_an_augment_that_raises_names_the_folder_once(tmp_path: Path) -> None:
    def broken(inputs: torch.Tensor, _: torch.Generator) -> torch.Tensor:
        raise ValueError("no such angle")

    with pytest.raises(TaskError, match="no such angle") as caught:
        of(X, Y, augment=broken).read_train(tmp_path)
    assert str(caught.value).count("own") == 1


def test_an_augment_in_float64_trains_as_one_in_float32() -> None:
    def noisy(inputs: torch.Tensor, noise: torch.Generator) -> torch.Tensor:
        return inputs + torch.rand(inputs.shape, generator=noise)

    def wide(inputs: torch.Tensor, noise: torch.Generator) -> torch.Tensor:
        return noisy(inputs, noise).double()

    inputs = torch.from_numpy(X)
    both = [
        augmented(of(X, Y, augment=one), inputs, torch.Generator().manual_seed(3))
        for one in (noisy, wide)
    ]
    assert both[1].dtype is torch.float32
    assert torch.equal(*both)
    assert not torch.equal(both[0], inputs)
    assert augmented(of(X, Y, augment=noisy), inputs, None) is inputs


def test_a_loss_that_leaves_out_missing_targets_is_believed(tmp_path: Path) -> None:
    """On missing ones alone its mean is of nothing; beside others it is a number."""
    targets = np.where(np.arange(40) % 9 == 5, np.nan, X[:, 0])[:, None]

    def masked(outputs: torch.Tensor, aims: torch.Tensor) -> torch.Tensor:
        return (outputs - aims)[~aims.isnan()].square().mean()

    task = of(X, targets, model=bce_net, loss=masked)
    assert len(task.read_train(tmp_path)) == 40
    with pytest.raises(DataError, match="4 of 40 targets hold a NaN"):
        replace(task, loss=F.mse_loss).read_train(tmp_path)
