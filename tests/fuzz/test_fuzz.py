"""A short fuzz of every decoder, and proof that the fuzzer finds what it looks for.

`make fuzz` is the long one.
"""

from __future__ import annotations

import msgspec
import pytest
from fuzz import fuzzer

from edge_sdk.errors import RemoteProtocolError
from edge_sdk.wire.messages import Message


def test_mutated_bytes_are_refused_in_words_or_decode_to_their_type() -> None:
    outcome = fuzzer.run(30_000, seed=11)
    assert outcome.crashes == []
    assert outcome.inputs == 30_000
    assert outcome.peak < fuzzer.MAX_PEAK
    # Mutations that are too wild never get past the first byte.
    assert set(outcome.accepted) >= set(fuzzer.TARGETS) - {"mask", "structure", "moved"}


def test_every_seed_decodes() -> None:
    for name, target in fuzzer.TARGETS.items():
        for seed in target.seeds:
            assert isinstance(target.decode(seed), target.gives), name


def test_every_message_is_fuzzed() -> None:
    assert {kind.__name__ for kind in Message.__args__} <= set(fuzzer.TARGETS)


def test_equal_seeds_give_equal_runs() -> None:
    first, second = (fuzzer.run(3000, seed=5) for _ in range(2))
    assert first.accepted == second.accepted
    assert fuzzer.run(3000, seed=6).accepted != first.accepted


def _trusts(data: bytes) -> object:
    try:
        found = msgspec.msgpack.decode(data)
    except ValueError:
        raise RemoteProtocolError("no") from None
    return {"task": found["task_id"]}


MUTANTS = {
    "another exception": (lambda data: data.decode(), str),
    "no validation": (_trusts, dict),
    "too much memory": (lambda data: bytes(40 << 20) and len(data), int),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_a_decoder_with_this_fault_is_found(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    decode, gives = MUTANTS[name]
    seeds = fuzzer.TARGETS["TaskOrder"].seeds
    mutant = {"mutant": fuzzer.Target(decode, seeds, gives)}
    monkeypatch.setattr(fuzzer, "TARGETS", mutant)
    assert fuzzer.run(2000, seed=1).crashes
