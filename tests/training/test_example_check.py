"""What a program knows of a board's examples, before any of them is trained."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edge_sdk import Examples, Task, by_name
from edge_sdk.datasets.growing.device_data import DeviceData
from edge_sdk.errors import DataError
from edge_sdk.program.file import pack_program
from edge_sdk.program.graph import Graph, Op, Parameter, TensorValue, TrainingProgram
from edge_sdk.training.program_engine import example_check
from edge_sdk.training.program_engine.example_check import ExampleCheck, input_ranges
from edge_sdk.training.program_engine.kept import check_by_kept, keep_program

TENSORS = (
    TensorValue((4,), whole=True),  # tokens
    TensorValue((), whole=True),  # labels
    TensorValue((2, 2), whole=True),
    TensorValue((2, 2, 5)),
    TensorValue((20,)),
    TensorValue((3,)),
    TensorValue((), whole=True),
)
LINEAR = Op("linear", (4,), (5,), (1, 2), (), layer="head")


def program(*, ignored: int = -1) -> TrainingProgram:
    """Four tokens below 7 through a table, and labels below 3 behind a view."""
    first = (
        Op("view", (0,), (2,)),
        Op("embedding", (2,), (3,), (0,), (-1,), layer="table"),
        Op("view", (3,), (4,)),
        LINEAR,
    )
    loss = Op("class_loss", (5, 6), (), (-1,), (ignored, 0, 1), (0.0, 1.0))
    return TrainingProgram(
        (
            Parameter("table.weight", (7, 5)),
            Parameter("head.weight", (3, 20)),
            Parameter("head.bias", (3,)),
        ),
        Graph(TENSORS, (*first, Op("view", (1,), (6,)), loss), (0, 1), ()),
        Graph(TENSORS[:6], first, (0,), (5,)),
    )


FILE = pack_program(program())
TOKENS = np.arange(24).reshape(6, 4) % 7
LABELS = np.array([0, 1, 2, -1, 1, 0])


def task(**more: object) -> Task:
    return Task(
        name="words",
        model=by_name("nowhere:Net"),
        loss=by_name("nowhere:loss"),
        input_shape=(4,),
        train_data=lambda _: Examples(TOKENS, LABELS),
        **more,  # type: ignore[arg-type]
    )


def test_labels_and_tokens_have_the_range_of_loss_and_table() -> None:
    tokens, labels = input_ranges(program())
    assert (tokens.place, tokens.end, tokens.ignored) == (0, 7, None)
    assert (labels.place, labels.end, labels.ignored) == (1, 3, -1)
    assert labels.outside(np.array([-2, -1, 0, 2, 3])).tolist() == [
        *(True, False, False, False, True)
    ]


@pytest.mark.parametrize("kind", [np.int8, np.uint16, np.int64, np.float32])
def test_every_example_is_looked_at_once(
    kind: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked = []
    own = ExampleCheck(task(prepare=lambda raw: (looked.append(1), raw)[1]))
    labels = np.abs(LABELS)
    examples = Examples(TOKENS.astype(kind), labels.astype(kind))
    own(examples, FILE)
    count = len(looked)
    assert count
    own(examples, FILE)
    assert len(looked) == count
    own(examples, pack_program(program(ignored=-7)))
    assert len(looked) > count
    wrong = TOKENS.copy()
    wrong[5, 3] = 7
    with pytest.raises(DataError, match=r"example 5 .*table: embedding takes 0 to 6"):
        own(Examples(wrong.astype(kind), labels), FILE)
    late = labels.copy()
    late[4] = 3
    with pytest.raises(DataError, match=r"example 4 .*label is 3.* takes 0 to 2"):
        own(Examples(TOKENS, late.astype(kind)), FILE)


def test_another_shape_is_refused_where_no_torch_could_take_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    odd = Examples(TOKENS[:, :3], LABELS)
    ExampleCheck(task())(odd, FILE)  # torch is here
    monkeypatch.setattr(example_check, "torch_is_here", lambda: False)
    with pytest.raises(DataError, match=r"inputs: they have the shape \(3,\)"):
        ExampleCheck(task())(odd, FILE)


def test_data_that_came_later_and_do_not_fit_are_named_and_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    given = [Examples(TOKENS, LABELS)]

    def read(_: Path) -> Examples:
        return given[-1]

    read.version = lambda _: str(len(given))  # type: ignore[attr-defined]
    own = Task(
        name="words", model=by_name("nowhere:Net"), loss=by_name("nowhere:loss"),
        input_shape=(4,), train_data=read,
    )  # fmt: skip
    data = DeviceData(own, tmp_path, tmp_path, arrays=True)
    check = ExampleCheck(own)
    data.check = lambda examples: check(examples, FILE)
    for labels, taken in ((LABELS + 1, False), (LABELS, True)):
        given.append(Examples(TOKENS[:5], labels[:5]))
        assert data.refresh() is taken
        assert len(data.examples) == (5 if taken else 6)
    assert "the 6 examples of before stay: task words: targets of" in caplog.text


def test_a_program_of_an_order_before_tells_what_does_not_fit_it(
    tmp_path: Path,
) -> None:
    wrong = Examples(TOKENS, LABELS + 1)
    check_by_kept(tmp_path, task(), wrong)  # nothing is known yet
    keep_program(tmp_path, b"damaged")
    check_by_kept(tmp_path, task(), wrong)
    keep_program(tmp_path, FILE)
    check_by_kept(tmp_path, task(), Examples(TOKENS, LABELS))
    with pytest.raises(DataError, match="by the model of the last order, task words"):
        check_by_kept(tmp_path, task(), wrong)
