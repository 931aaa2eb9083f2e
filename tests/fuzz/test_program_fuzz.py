"""Mutated plans of training programs, under sanitizers; see `make fuzz-program`."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from fuzz import program_fuzzer
from fuzz.program_families import FAMILIES

from edge_sdk.kernels.build import find_compiler, this_machine

pytestmark = [
    pytest.mark.skipif(
        find_compiler(this_machine()) is None, reason="no C++ compiler is installed"
    ),
    pytest.mark.timeout(3600),  # compiles all kernels, on any machine
]
MUTANTS = int(os.environ.get("FLASH_EDGE_FUZZ_MUTANTS", "200000"))


@pytest.mark.slow
def test_mutated_plans_are_refused_or_run_within_their_memory(tmp_path: Path) -> None:
    families = [(name, family.program()) for name, family in FAMILIES.items()]
    programs = [*program_fuzzer.small_programs(), *families]
    for path in program_fuzzer.write_seeds(tmp_path, programs):
        call = [program_fuzzer.tool(), path]
        done = subprocess.run(call, capture_output=True, check=False)
        assert done.returncode == 0, (path.name, done.stderr[-3000:])
    figures = program_fuzzer.fuzz(tmp_path, mutants=MUTANTS, seed=7)
    assert "finding" not in figures, figures["finding"]
    assert figures["refused"] > figures["ran"] > 0
