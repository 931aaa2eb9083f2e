"""A program's bytes: golden, damaged, hostile."""

from __future__ import annotations

import hashlib
import struct
from dataclasses import replace

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_sdk.errors import EngineError
from edge_sdk.program.check import check
from edge_sdk.program.file import pack_program, unpack_program
from edge_sdk.program.graph import Graph, Op, Parameter, TensorValue, TrainingProgram

# Two linear layers with a ReLU between them; written by hand, so that no version of
# torch has a part in it.
BODY = (
    Op("linear", (0,), (2,), (0, 1), (), (), "a", "m.py:1"),
    Op("relu", (2,), (3,), (), (), (), "", "m.py:2"),
    Op("linear", (3,), (4,), (2, -1), (), (), "b", "m.py:3"),
)
TENSORS = tuple(TensorValue((n,)) for n in (4, 2, 3, 3, 2))
PROGRAM = TrainingProgram(
    (
        Parameter("a.weight", (3, 4)),
        Parameter("a.bias", (3,)),
        Parameter("b.weight", (2, 3)),
    ),
    Graph(TENSORS, (*BODY, Op("mse", (4, 1), ())), (0, 1), ()),
    Graph(TENSORS, BODY, (0,), (4,)),
)
GOLDEN = "3e7e8a1c78caf077190a8d87b3a75c91c414770471df197430fdf903fed5124b"


def test_the_bytes_of_a_released_version_never_change() -> None:
    """If this fails, make a new version of the format; see `edge_sdk.program.file`."""
    assert hashlib.sha256(pack_program(PROGRAM)).hexdigest() == GOLDEN
    assert unpack_program(pack_program(PROGRAM)) == PROGRAM


def test_an_older_program_without_later_fields_is_read() -> None:
    body = msgspec.msgpack.decode(msgspec.msgpack.encode(PROGRAM))
    for parameter in body["parameters"]:
        del parameter["buffer"], parameter["counter"]
    assert unpack_program(sealed(msgspec.msgpack.encode(body))) == PROGRAM


def sealed(body: bytes, *, magic: bytes = b"FLEPROG\n", version: int = 1) -> bytes:
    digest = hashlib.sha256(body).digest()
    return struct.pack("<8sII32s", magic, version, len(body), digest) + body


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "0 bytes"),
        (sealed(b"", magic=b"GGUFGGUF"), "no program"),
        (sealed(b"\x80", version=4), "version 4, this runtime reads 1 to 3"),
        (pack_program(PROGRAM)[:-1], "damaged"),
        (sealed(b"\x80"), "missing required field"),
        (sealed(b"\xc1" * 9), "MessagePack"),
        (sealed(b"\x91" * 100_000), "read"),
    ],
)
def test_damaged_bytes_are_refused_in_words(data: bytes, why: str) -> None:
    with pytest.raises(EngineError, match=why):
        unpack_program(data)


def with_operation(at: int, **changes: object) -> TrainingProgram:
    operations = list(PROGRAM.training.operations)
    operations[at] = replace(operations[at], **changes)
    training = replace(PROGRAM.training, operations=tuple(operations))
    return replace(PROGRAM, training=training)


def test_a_weight_of_two_names_is_told_to_older_runtimes_by_the_version() -> None:
    twice = replace(
        PROGRAM,
        parameters=(*PROGRAM.parameters, replace(PROGRAM.parameters[0], name="too")),
        shared=((len(PROGRAM.parameters), 0),),
    )
    data = pack_program(twice)
    assert data[8:12] == b"\x02\0\0\0"
    assert unpack_program(data) == twice
    for wrong in ((0, 0), (1, 0), (len(PROGRAM.parameters), 1), (-1, 0), (99, 0)):
        with pytest.raises(EngineError, match="parameters of two names"):
            check(replace(twice, shared=(wrong,)))


@pytest.mark.parametrize("returns", [("",), ("logits",)])
def test_the_form_of_predictions_is_told_to_older_runtimes_by_the_version(
    returns: tuple[str, ...],
) -> None:
    program = replace(PROGRAM, returns=returns)
    data = pack_program(program)
    assert data[8:12] == b"\x03\0\0\0"
    assert unpack_program(data) == program
    assert program.returned([7]) == ({"logits": 7} if returns[0] else (7,))
    for wrong in (returns * 2, ("logits", ""), ("logits", "box")):
        with pytest.raises(EngineError, match="predictions and their names"):
            check(replace(program, returns=wrong))


@pytest.mark.parametrize(
    ("program", "why"),
    [
        (with_operation(0, name="system"), "no such operation"),
        (with_operation(0, inputs=(4,)), "before it is made"),
        (with_operation(0, inputs=(99,)), "before it is made"),
        (with_operation(0, inputs=()), "has 0 inputs"),
        (with_operation(1, inputs=(3,)), "before it is made"),  # a cycle
        (with_operation(1, outputs=(2,)), "twice"),
        (with_operation(1, outputs=(7,)), "no tensor"),
        (with_operation(0, parameters=(7, 1)), "no parameter for its weight"),
        (with_operation(0, parameters=(-1, 1)), "no parameter for its weight"),
        (with_operation(0, parameters=(1, 1)), "needs a weight|two places"),
        (with_operation(0, parameters=(2, 1)), "does not fit"),
        (with_operation(0, ints=(1,)), "attributes of its kind"),
        (with_operation(3, name="relu", inputs=(4,)), "gives"),
        (replace(PROGRAM, training=PROGRAM.evaluation), "losses"),
        (
            replace(PROGRAM, parameters=(PROGRAM.parameters[0],) * 3),
            "two parameters of one name",
        ),
        (
            replace(PROGRAM, training=replace(PROGRAM.training, inputs=(0, 9))),
            "no tensors",
        ),
        (
            replace(
                PROGRAM,
                training=replace(
                    PROGRAM.training,
                    tensors=(TensorValue((1 << 20, 1 << 20)), *TENSORS[1:]),
                ),
            ),
            "too many values",
        ),
    ],
)
def test_hostile_programs_are_refused_with_the_operation(
    program: TrainingProgram, why: str
) -> None:
    with pytest.raises(EngineError, match=why):
        unpack_program(pack_program(program))


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_no_mutant_ends_in_anything_but_a_program_or_an_error(
    data: st.DataObject,
) -> None:
    body = bytearray(pack_program(PROGRAM)[48:])
    for _ in range(data.draw(st.integers(1, 4))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    try:
        check(unpack_program(sealed(bytes(body))))
    except EngineError:
        return
