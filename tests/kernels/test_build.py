"""Finding, building and loading the kernel library."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from patience import patience

from edge_sdk.errors import EngineError
from edge_sdk.kernels import build as building
from edge_sdk.kernels import library


def test_some_library_is_available_here() -> None:
    assert library.kernels().isa in {"v4", "v3", "sse41", "neon"}
    assert library.available() == library.kernels().isa
    assert library.unavailable_reason() == ""


def test_the_environment_chooses_the_isa(monkeypatch: pytest.MonkeyPatch) -> None:
    name = building.targets_for(building.this_machine())[-1].name
    monkeypatch.setenv("FLASH_EDGE_ISA", name)
    library.kernels.cache_clear()
    try:
        assert library.kernels().isa == name
        assert library.kernels().vector_bytes == 16
        monkeypatch.setenv("FLASH_EDGE_ISA", "altivec")
        library.kernels.cache_clear()
        with pytest.raises(EngineError, match="altivec"):
            library.kernels()
    finally:
        library.kernels.cache_clear()


def test_a_machine_without_a_build_is_named() -> None:
    with pytest.raises(building.BuildError, match="riscv64"):
        building.targets_for("riscv64")


def test_no_compiler_is_a_clear_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    targets = building.targets_for(building.this_machine())
    with pytest.raises(building.BuildError, match="install g\\+\\+"):
        building.build(targets, tmp_path)
    assert not list(tmp_path.glob("*.so"))


def test_a_failing_compiler_leaves_nothing_behind(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("CXX", "false")
    targets = building.targets_for(building.this_machine())
    with pytest.raises(building.BuildError, match="failed"):
        building.build(targets, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_library_is_an_error_and_no_crash(tmp_path: Path) -> None:
    broken = tmp_path / "libflash_edge_v3.so"
    broken.write_bytes(b"not a library")
    with pytest.raises(EngineError, match="does not load"):
        library._load("v3", broken)


def test_the_build_file_needs_nothing_but_the_standard_library() -> None:
    """The packaging hook runs it before any dependency is there."""
    code = (
        "import runpy, sys; runpy.run_path(sys.argv[1]); "
        "sys.exit(any(m in sys.modules for m in ('torch', 'numpy', 'edge_sdk')))"
    )
    subprocess.run(
        [sys.executable, "-S", "-c", code, building.__file__],
        check=True,
        timeout=patience(60),
    )
