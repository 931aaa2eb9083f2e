"""A `coordinator.py` or `export.py` of the user's: harmless, or named."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from edge_sdk.child_process import child_module

NAMES = ("coordinator", "export", "device_profiles")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with modules of our names; each leaves a mark when it is executed."""
    for name in NAMES:
        mark = f"open({str(tmp_path / 'mark')!r}, 'a').write({name!r})\n"
        (tmp_path / f"{name}.py").write_text(mark)
    return tmp_path


def run(
    folder: Path, *command: str, path: str = ""
) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": path}
    return subprocess.run(
        command, cwd=folder, env=env, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("command", ["edge", "coordinator", "export"])
def test_a_command_takes_our_packages_ahead_of_pythonpath(
    folder: Path, command: str
) -> None:
    program = (
        "import sys; sys.argv[1:] = ['--help'];"
        f"from edge_sdk.own_packages import {command}; {command}()"
    )
    done = run(folder, sys.executable, "-c", program, path=f".:{folder}")
    assert "Usage" in done.stdout, done.stderr
    assert not (folder / "mark").exists()


def test_a_child_of_ours_takes_our_packages_ahead_of_pythonpath(folder: Path) -> None:
    (folder / "edge_sdk.py").write_text("raise SystemExit('foreign')\n")
    done = run(folder, *child_module("coordinator.cli", "--help"), path=str(folder))
    assert "Usage" in done.stdout, done.stderr
    assert not (folder / "mark").exists()


@pytest.mark.parametrize("name", NAMES[:2])
@pytest.mark.parametrize("used", ["edge_sdk.Task", "edge_sdk.Examples"])
def test_a_script_is_told_which_file_hides_a_package_of_ours(
    folder: Path, name: str, used: str
) -> None:
    done = run(folder, sys.executable, "-c", f"import {name}, edge_sdk; {used}")
    assert done.returncode == 0
    assert f"{folder / name}.py hides the package {name} of flash-edge" in done.stderr
    assert "give that file another name" in done.stderr


def test_who_hides_nothing_is_told_nothing(tmp_path: Path) -> None:
    program = "import coordinator, edge_sdk, export; edge_sdk.Task; coordinator.flash"
    done = run(tmp_path, sys.executable, "-W", "error", "-c", program)
    assert (done.returncode, done.stderr) == (0, "")
