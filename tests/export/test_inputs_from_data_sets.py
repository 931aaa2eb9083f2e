"""Several inputs out of data sets and loaders, and by the names of any arguments."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset

import export
from edge_sdk.errors import DataError, EdgeError, ExportError
from export.modules import from_module

COUNT = 10
RANDOM = np.random.default_rng(1)
GIVEN = {
    "image": RANDOM.standard_normal((COUNT, 3, 4, 4)).astype(np.float32),
    "ids": RANDOM.integers(0, 9, (COUNT, 5)),
}
TARGETS = np.arange(COUNT) % 4
SHAPES = ((3, 4, 4), (5,))


class Two(nn.Module):
    """An image, and token ids that may not be left out."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.out = nn.Embedding(9, 4), nn.Linear(48 + 4, 3)

    def forward(self, image: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.out(
            torch.cat([image.flatten(1), self.words(ids).mean(1)], 1)
        )
        return found


class Examples(Dataset[Any]):
    """Whatever a function gives for each number."""

    def __init__(self, of: Callable[[int], Any], count: int = COUNT) -> None:
        self._of, self._count = of, count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, number: int) -> Any:
        return self._of(number)


def row(number: int) -> tuple[Any, ...]:
    return tuple(torch.as_tensor(array[number]) for array in GIVEN.values())


def named(number: int) -> dict[str, Any]:
    return {key: array[number] for key, array in GIVEN.items()}


FORMS: dict[str, tuple[Callable[[int], Any], bool]] = {
    "tuples": (row, False),
    "tuples with a label": (lambda i: (*row(i), int(TARGETS[i])), True),
    "dictionaries": (named, False),
    "dictionaries with targets": (lambda i: {**named(i), "targets": TARGETS[i]}, True),
    "dictionaries with labels": (lambda i: {**named(i), "labels": TARGETS[i]}, True),
    "pairs of a tuple": (lambda i: (row(i), TARGETS[i]), True),
    "pairs of a dictionary": (lambda i: (named(i), TARGETS[i]), True),
}


@pytest.mark.parametrize("loaded", [False, True], ids=["data set", "loader"])
@pytest.mark.parametrize("shapes", [None, SHAPES], ids=["", "shapes"])
@pytest.mark.parametrize("form", FORMS)
def test_examples_of_several_inputs_may_be_a_data_set(
    form: str, shapes: Any, loaded: bool
) -> None:
    of, labelled = FORMS[form]
    data: Any = Examples(of)
    given = DataLoader(data, 4) if loaded else data
    found = from_module(Two(), shapes, calibration=given).given
    assert found is not None
    rows = [array.reshape(COUNT, -1) for array in GIVEN.values()]
    assert np.array_equal(found.batch, np.concatenate(rows, 1).astype(np.float32))
    assert (found.targets is not None) == labelled
    if labelled:
        assert np.array_equal(found.targets, TARGETS)


class Endless(IterableDataset[Any]):
    """Has no length, and no end."""

    def __iter__(self) -> Any:
        while True:
            yield named(0)


def test_of_a_data_set_without_an_end_the_first_are_taken() -> None:
    found = from_module(Two(), calibration=Endless()).given
    assert found is not None
    assert len(found.batch) == 4096


def fails(_: int) -> Any:
    raise KeyError("file of example")


WRONG: dict[str, tuple[Callable[[int], Any], str]] = {
    "one input": (lambda i: row(i)[0], "takes image, ids"),
    "three and a label": (lambda i: (*row(i), 0, 0), "4 arrays, the model takes"),
    "another name": (
        lambda i: {"image": GIVEN["image"][i], "id": GIVEN["ids"][i]},
        "inputs given are image, id; ids is missing",
    ),
    "two forms": (
        lambda i: row(i) if i < 3 else named(i),
        "example 3 is a dictionary of image, ids, example 0 is a tuple of 2",
    ),
    "two lengths": (
        lambda i: (row(i)[0], GIVEN["ids"][i][: 3 + i % 2]),
        "value 1 of examples has several shapes",
    ),
    "words": (lambda i: (row(i)[0], "word"), "ids are text"),
    "nothing in it": (lambda _: {}, "inputs given are none"),
    "its own failure": (fails, "number 0 cannot be read: KeyError"),
}


@pytest.mark.parametrize("case", WRONG)
def test_data_sets_that_do_not_fit_are_named(case: str) -> None:
    of, said = WRONG[case]
    with pytest.raises(EdgeError, match=said):
        from_module(Two(), calibration=Examples(of))


def test_a_data_set_of_nothing_is_refused() -> None:
    with pytest.raises(DataError, match="holds no examples"):
        from_module(Two(), SHAPES, calibration=Examples(row, 0))


def test_a_failure_of_a_plain_data_set_names_the_example() -> None:
    data = Examples(lambda i: (np.ones(3), 1) if i < 2 else fails(i))
    with pytest.raises(DataError, match="number 2 cannot be read: KeyError"):
        from_module(nn.Linear(3, 2), calibration=data)


class Named(nn.Module):
    """Takes its second and third input by name alone, and the second may be missing."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(3, 2), nn.Linear(4, 2), nn.Linear(5, 2)

    def forward(
        self, x: torch.Tensor, *, y: torch.Tensor | None = None, z: torch.Tensor
    ) -> torch.Tensor:
        found: torch.Tensor = self.a(x) + self.c(z)
        return found if y is None else found + self.b(y)


class AnyNames(nn.Module):
    """Takes whatever names it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.c = nn.Linear(3, 2), nn.Linear(5, 2)

    def forward(self, **given: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.a(given["x"]) + self.c(given["z"])
        return found


@pytest.mark.parametrize(
    ("make", "names"), [(Named, "xz"), (Named, "xyz"), (AnyNames, "xz")]
)
def test_arguments_that_are_given_by_name_are_inputs(
    make: Callable[[], nn.Module], names: str, tmp_path: Path
) -> None:
    sizes = {"x": 3, "y": 4, "z": 5}
    model, out = make(), tmp_path / "named.onnx"
    shapes = {name: (sizes[name],) for name in names}
    export.build(model, out, format="onnx", input_shape=shapes)
    given = {name: np.ones((1, sizes[name]), np.float32) for name in names}
    with torch.no_grad():
        wanted = model(**{name: torch.from_numpy(one) for name, one in given.items()})
    assert np.allclose(export.load(out)(given), wanted, atol=1e-5)


def test_arguments_that_a_forward_lacks_are_named() -> None:
    with pytest.raises(ExportError, match="takes x, z; inputs given are x, y; z is"):
        from_module(Named(), {"x": (3,), "y": (4,)})
    with pytest.raises(ExportError, match=r"takes x, z; .* are x, z, w$"):
        from_module(Named(), {"x": (3,), "z": (5,), "w": (4,)})


class Shifted(nn.Module):
    """Needs one of its inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Linear(3, 2)

    def forward(
        self,
        x: torch.Tensor,
        mask: torch.Tensor | None = None,
        shift: torch.Tensor | None = None,
    ) -> torch.Tensor:
        x = x if mask is None else x * mask
        found: torch.Tensor = self.out(x if shift is None else x + shift)
        return found


def test_examples_of_inputs_that_may_be_left_out_are_taken() -> None:
    three = tuple(np.ones((4, 3), np.float32) for _ in range(3))
    assert len(from_module(Shifted(), calibration=three).parts) == 3
    found = from_module(Shifted(), calibration=(*three, np.arange(4)))
    assert len(found.parts) == 3
    assert found.given is not None
    assert found.given.targets is not None
