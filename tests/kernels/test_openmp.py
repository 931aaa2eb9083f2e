"""Kernels need no torch, and share one OpenMP thread pool with it where it is there."""

from __future__ import annotations

import subprocess
import sys

import pytest

from edge_sdk.kernels.library import unavailable_reason

LOADED = """
with open("/proc/self/maps") as maps:
    print(len({line.split()[-1] for line in maps if "libgomp" in line}))
"""
LOAD = "from edge_sdk.kernels.library import kernels; kernels()"


def told(*lines: str) -> str:
    code = "\n".join(lines)
    run = [sys.executable, "-c", code]
    return subprocess.run(run, check=True, capture_output=True, text=True).stdout


@pytest.mark.skipif(bool(unavailable_reason()), reason="no kernels here")
def test_kernels_load_where_torch_cannot_be_imported() -> None:
    blocked = "import sys; sys.modules['torch'] = None"
    build = "print(Structure.of(np.eye(7, dtype=np.bool_)).nnz)"
    numpy = "import numpy as np"
    structure = "from edge_sdk.kernels.structure import Structure"
    said = told(blocked, LOAD, numpy, structure, build, LOADED)
    assert said.split() == ["7", "1"]


@pytest.mark.skipif(bool(unavailable_reason()), reason="no kernels here")
@pytest.mark.parametrize("order", [(LOAD, "import torch"), ("import torch", LOAD)])
def test_kernels_and_torch_have_one_thread_pool(order: tuple[str, str]) -> None:
    """Two copies of OpenMP would have two, that fight for the cores."""
    assert told(*order, LOADED).strip() == "1"
