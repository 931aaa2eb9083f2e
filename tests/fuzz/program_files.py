"""Mutates training programs as files: what a board does before its runtime is asked.

A program's body is taken apart, a few of its fields are changed, dropped, repeated or
swapped, and it is sealed again, so that its digest fits. The board then refuses it as
`EngineError`, or makes a plan of it: the plan's own mutants are the other fuzzer's.

    PYTHONPATH=tests python tests/fuzz/program_files.py --inputs 100000 --seed 1
"""

from __future__ import annotations

import argparse
import hashlib
import json
import struct
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import msgspec
import numpy as np
from fuzz.program_cases import cases

from edge_sdk.errors import EngineError
from edge_sdk.kernels.library import kernels
from edge_sdk.program.capture import capture
from edge_sdk.program.file import pack_program, unpack_program
from edge_sdk.program.plan import plan
from edge_sdk.program.runtime import declared
from edge_sdk.program.schedule import schedule
from edge_sdk.program.words import words

HEAD = struct.calcsize("<8sII32s")
ODD = (-1, 0, 1, 2, 3, 7, 255, 65536, 2**31, 2**40, 2**63 - 1, -(2**63), 0.5, "", "x")
ODD += (None, True, [], {}, float("nan"), float("inf"), "relu", "conv2d")


@dataclass
class Outcome:
    """What became of the inputs.

    Attributes:
        refused: Stage to how many it refused.
        planned: How many became a plan.
        faults: (seed, body in hexadecimal, what was raised) of anything else.
        slowest_s: Processor seconds of the slowest input.
    """

    refused: Counter[str] = field(default_factory=Counter)
    planned: int = 0
    faults: list[tuple[str, str, str]] = field(default_factory=list)
    slowest_s: float = 0.0


@cache
def seeds() -> dict[str, bytes]:
    """Programs of small models that together have every operation, as files."""
    return {
        name: pack_program(capture(case.model, case.loss, case.inputs, case.targets))
        for name, case in cases().items()
    }


def resealed(head: bytes, body: bytes) -> bytes:
    """The file of a body, its size and digest right."""
    magic, version, _, _ = struct.unpack("<8sII32s", head)
    digest = hashlib.sha256(body).digest()
    return struct.pack("<8sII32s", magic, version, len(body), digest) + body


def places(value: Any) -> list[tuple[Any, Any]]:
    """(container, key) of everything that is in a decoded body."""
    found: list[tuple[Any, Any]] = []
    keys: Sequence[Any] = []
    if isinstance(value, dict):
        keys = list(value)
    elif isinstance(value, list):
        keys = range(len(value))
    for key in keys:
        found += [(value, key), *places(value[key])]
    return found


def mutate(body: bytes, rng: np.random.Generator) -> bytes:
    """A body with one to three changed fields."""
    value = msgspec.msgpack.decode(body)
    for _ in range(rng.integers(1, 4)):
        every = places(value)
        if not every:
            break
        where, key = every[rng.integers(len(every))]
        other, name = every[rng.integers(len(every))]
        match rng.integers(6):
            case 0 | 1:
                where[key] = ODD[rng.integers(len(ODD))]
            case 2 if isinstance(where[key], int):
                where[key] = max(where[key] + int(rng.integers(-3, 4)), -(2**63))
            case 3:
                del where[key]
            case 4 if isinstance(where, list):
                where.insert(key, where[key])
            case _:
                copied = msgspec.msgpack.encode(other[name])
                where[key] = msgspec.msgpack.decode(copied)
    return msgspec.msgpack.encode(value)


def attempt(data: bytes) -> str:
    """The stage that refused a program; "" if there is a plan of it."""
    stage, number = "file", declared(kernels()).fe_program_operation
    try:
        program = unpack_program(data)
        for graph, train in ((program.training, True), (program.evaluation, False)):
            stage = "schedule"
            steps = schedule(graph, program.slots, train=train)
            stage = "plan"
            made = plan(steps, lanes=4, blocks=2)
            words(made, lambda n: int(number(n.encode())))
    except EngineError:
        return stage
    return ""


def run(inputs: int, seed: int) -> Outcome:
    """So many inputs over all seeds; stops at nothing."""
    outcome, rng, files = Outcome(), np.random.default_rng(seed), list(seeds().items())
    for number in range(inputs):
        name, data = files[number % len(files)]
        body = mutate(data[HEAD:], rng)
        began = time.process_time()
        try:
            stage = attempt(resealed(data[:HEAD], body))
        except Exception as error:  # noqa: BLE001 - this is what is looked for
            what = f"{type(error).__name__}: {error}"
            outcome.faults.append((name, body.hex(), what))
        else:
            outcome.planned += not stage
            outcome.refused[stage] += 1
        outcome.slowest_s = max(outcome.slowest_s, time.process_time() - began)
    return outcome


def main() -> int:
    """Prints figures; 1 if anything but a refusal was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    found = run(options.inputs, options.seed)
    figures = {
        "inputs": options.inputs,
        "planned": found.planned,
        "refused": {s: n for s, n in found.refused.items() if s},
        "slowest_s": round(found.slowest_s, 3),
        "faults": Counter(what[:90] for _, _, what in found.faults).most_common(20),
    }
    sys.stdout.write(json.dumps(figures, indent=1) + "\n")
    return int(bool(found.faults))


if __name__ == "__main__":
    sys.exit(main())
