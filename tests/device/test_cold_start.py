"""A freshly installed device: kernels that must be compiled first, and once."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

START = """
import logging, sys
from pathlib import Path
import numpy as np
from edge_sdk.kernels import library
from edge_sdk.models.task import Examples, load_task
from edge_sdk.training.runner import TaskRunner

logging.basicConfig(level=logging.INFO, format="%(message)s")
library.package_folder = lambda: Path("/nowhere")  # as after an sdist's installation
assert sys.argv[1] == "broken" or library.available() is None, "the cache is not cold"
own = Examples(np.zeros((4, 1, 8, 8), np.uint8), np.zeros(4, np.int64))
runner = TaskRunner(load_task("digits"), own, "auto")
print(",".join(runner.engines))  # what HELLO says
"""


@pytest.fixture
def cold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and a real compiler that writes a line for every link."""
    compiler = tmp_path / "g++"
    compiler.write_text(
        "#!/bin/sh\n"
        f'case "$*" in *-shared*) echo link >> {tmp_path}/links;; esac\n'
        f'exec {shutil.which("g++")} "$@" -O0\n'
    )
    compiler.chmod(compiler.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("CXX", str(compiler))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("FLASH_EDGE_ISA", "sse41")
    monkeypatch.setenv("PYTHONPATH", str(Path.cwd()))
    return tmp_path


def start(word: str = "cold") -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", START, word],
        env=dict(os.environ), text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a compiler")
def test_devices_that_start_together_compile_once_and_before_they_say_hello(
    cold: Path,
) -> None:
    devices = [start(), start()]
    said = [device.communicate(timeout=200) for device in devices]
    assert [d.returncode for d in devices] == [0, 0], said
    assert [out.strip() for out, _ in said] == ["sparse,masked"] * 2
    assert (cold / "links").read_text() == "link\n"
    assert sum("compiling the sparse kernels (sse41)" in err for _, err in said) == 1
    assert all("sparse kernels are ready: sse41 from" in err for _, err in said)


def test_a_compiler_that_fails_is_told_at_the_start_and_training_goes_on_masked(
    cold: Path,
) -> None:
    (cold / "g++").write_text("#!/bin/sh\necho no space left >&2; exit 1\n")
    device = start("broken")
    out, said = device.communicate(timeout=200)
    assert device.returncode == 0, said
    assert out.strip() == "masked"
    assert "training will run dense-masked" in said
    assert "no space left" in said
