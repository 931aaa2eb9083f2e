"""Fuzzes the runtime of training programs: C++ under sanitizers.

Plans of real models are mutated word by word, opened and run; parameters and batches
lie in memory of exactly the size that was told. `make fuzz-program` takes a million
mutants of each family's plans and of each small model's; every 100,000 of them a line
on stderr says how far it is.

    PYTHONPATH=tests python tests/fuzz/program_fuzzer.py --mutants 1000000 --seed 1
    PYTHONPATH=tests python tests/fuzz/program_fuzzer.py --families gru vit
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from checked_kernels import checked_program
from fuzz.program_cases import SAMPLES, cases
from fuzz.program_families import FAMILIES
from fuzz.running import figures_of

from edge_sdk.kernels.library import kernels
from edge_sdk.program.capture import capture
from edge_sdk.program.graph import TrainingProgram
from edge_sdk.program.operations import operands, rule_of
from edge_sdk.program.passes import optimized
from edge_sdk.program.plan import plan
from edge_sdk.program.runtime import declared
from edge_sdk.program.schedule import schedule
from edge_sdk.program.words import words

HERE = Path(__file__).resolve().parent / "program"


@cache
def tool() -> Path:
    """The fuzzer as one executable, compiled once per version of its sources."""
    return checked_program(HERE / "fuzz.cpp")


# --------------------------------------------------------------------------- seeds


def small_programs() -> Iterator[tuple[str, TrainingProgram]]:
    """(name, program) of each of the small models."""
    for name, case in cases().items():
        yield name, capture(case.model, case.loss, case.inputs, case.targets)


def seed_files(
    programs: Iterable[tuple[str, TrainingProgram]],
) -> Iterator[tuple[str, bytes]]:
    """(name, bytes) of each seed: plain and fused, training and evaluation."""
    for name, plain in programs:
        fused = replace(
            plain,
            training=optimized(plain.training),
            evaluation=optimized(plain.evaluation),
        )
        for kind, program in (("plain", plain), ("fused", fused)):
            for train in (True, False):
                yield f"{name}-{kind}-{train}", _seed(program, train=train)


def _seed(program: TrainingProgram, *, train: bool) -> bytes:
    graph = program.training if train else program.evaluation
    number = declared(kernels()).fe_program_operation
    made = plan(schedule(graph, program.slots, train=train), lanes=4, blocks=2)
    plan_words = words(made, lambda n: int(number(n.encode())))
    shapes = {}
    for operation in graph.operations:
        rule = rule_of(operation)
        if rule.weight is not None:
            call = operands(operation, graph, program.slots)
            shapes[operation.parameters[0]] = rule.weight(call)
    out = [len(program.slots)]
    for at, parameter in enumerate(program.slots):
        shape, groups = shapes.get(at, ((1, 1), 1))
        kernel = shape[2:] or (1, 1)
        out += (parameter.size, int(parameter.trained), int(at in shapes))
        out += (*shape[:2], groups, *kernel, int(len(shape) == 2))
    outside = [graph.tensors[t] for t in (*graph.inputs, *graph.outputs)]
    out.append(len(outside))
    for tensor in outside:
        out += (tensor.size, int(tensor.whole))
    out.append(SAMPLES)
    return np.array([*out, *plan_words.tolist()], np.int64).tobytes()


def write_seeds(
    folder: Path, programs: Iterable[tuple[str, TrainingProgram]]
) -> list[Path]:
    """Writes every seed file of programs; returns their paths."""
    paths = []
    for name, content in seed_files(programs):
        paths.append(folder / f"{name}.plan")
        paths[-1].write_bytes(content)
    return paths


def fuzz(seeds: Path, *, mutants: int, seed: int, name: str = "") -> dict[str, Any]:
    """Figures of one process; a finding is in words under "finding"."""
    return figures_of([tool(), seeds, str(mutants), str(seed)], name)


def main() -> int:
    """Runs from the command line; 1 if there was a finding."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mutants", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--families", nargs="*", choices=FAMILIES, help="these families' plans alone"
    )
    options = parser.parse_args()
    names = FAMILIES if options.families is None else options.families
    found = 0
    if options.families is None:
        small = list(small_programs())
        found |= _report(
            "small models", small, len(small) * options.mutants, options.seed
        )
    for name in names or FAMILIES:
        own = [(name, FAMILIES[name].program())]
        found |= _report(name, own, options.mutants, options.seed)
    return found


def _report(
    name: str, programs: list[tuple[str, TrainingProgram]], mutants: int, seed: int
) -> int:
    """Fuzzes programs, says what came of it in a line; 1 if there was a finding."""
    with tempfile.TemporaryDirectory() as folder:
        write_seeds(Path(folder), programs)
        figures = fuzz(Path(folder), mutants=mutants, seed=seed, name=name)
    sys.stdout.write(json.dumps({"family": name, **figures}) + "\n")
    sys.stdout.flush()
    return int("finding" in figures)


if __name__ == "__main__":
    sys.exit(main())
