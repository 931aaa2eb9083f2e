"""A short fuzz of training programs as files; `make fuzz-program` has the long one."""

from __future__ import annotations

import msgspec
import pytest
from fuzz import program_files as fuzzer


def test_a_mutated_program_is_refused_in_words_or_has_a_plan() -> None:
    found = fuzzer.run(3000, seed=2)
    assert found.faults == []
    assert found.planned > 50
    assert found.refused["file"] > 1000


def test_every_seed_has_a_plan() -> None:
    for name, data in fuzzer.seeds().items():
        assert fuzzer.attempt(data) == "", name
        head, body = data[: fuzzer.HEAD], data[fuzzer.HEAD :]
        assert fuzzer.resealed(head, body) == data


@pytest.mark.parametrize("outputs", [[], [0, 1, 2]])
def test_an_operation_of_too_few_or_many_results_is_refused(outputs: list[int]) -> None:
    """Rules take a result's shape for granted: it was a `ValueError`."""
    for name, data in fuzzer.seeds().items():
        head, body = data[: fuzzer.HEAD], data[fuzzer.HEAD :]
        count = len(msgspec.msgpack.decode(body)["training"]["operations"])
        for at in range(count):
            program = msgspec.msgpack.decode(body)
            operation = program["training"]["operations"][at]
            if not operation["outputs"]:  # a loss gives none
                continue
            operation["outputs"] = outputs
            changed = fuzzer.resealed(head, msgspec.msgpack.encode(program))
            assert fuzzer.attempt(changed) == "file", (name, at)
