"""Scripts of the warm interpreter do what scripts of any other do."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psutil
import pytest
from patience import patience, waited
from warm_python import WarmPython

SEEN = """
import json, os, sys
ours = ("edge_sdk", "coordinator", "export")
print(json.dumps({
    "arguments": sys.argv[1:],
    "cwd": os.getcwd(),
    "env": os.environ["OWN"],
    "mask": os.umask(0),
    "stdin": sys.stdin.read(),
    "path": sys.path[0],
    "main": sys.modules["__main__"].__file__,
    "ours": [name for name in sys.modules if name.partition(".")[0] in ours],
    "warm": "colorsys" in sys.modules,
}))
print("aside", file=sys.stderr)
raise SystemExit(7)
"""
WAITS = """
import pathlib, signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(5))
pathlib.Path("pid").write_text(str(__import__("os").getpid()))
time.sleep(3600)
"""


@pytest.fixture(scope="module")
def python() -> Iterator[Path]:
    with (
        tempfile.TemporaryDirectory() as folder,
        closing(WarmPython(Path(folder), ["colorsys"])) as made,
    ):
        yield made.program


def script(folder: Path, python: Path, text: str) -> Path:
    path = folder / "own"
    path.write_text(f"#!{python}\n{text}")
    path.chmod(0o755)
    return path


def test_a_script_has_its_own_surroundings_and_modules(
    python: Path, tmp_path: Path
) -> None:
    own, there = script(tmp_path, python, SEEN), tmp_path / "there"
    there.mkdir()
    done = subprocess.run(
        [own, "a b", "c"],
        cwd=there,
        env={"OWN": "é", "PATH": os.environ["PATH"]},
        input="given",
        umask=0o077,
        capture_output=True,
        text=True,
        check=False,
        timeout=patience(60),
    )
    assert (done.returncode, done.stderr) == (7, "aside\n")
    assert json.loads(done.stdout) == {
        "arguments": ["a b", "c"],
        "cwd": str(there),
        "env": "é",
        "mask": 0o077,
        "stdin": "given",
        "path": str(tmp_path),
        "main": str(own),
        "ours": [],
        "warm": True,
    }


def test_an_error_ends_it_as_python_ends(python: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [script(tmp_path, python, "import no_such_module")],
        capture_output=True,
        text=True,
        check=False,
        timeout=patience(60),
    )
    assert done.returncode == 1
    assert "ModuleNotFoundError: No module named 'no_such_module'" in done.stderr


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 5), (signal.SIGKILL, -signal.SIGKILL)]
)
def test_a_signal_reaches_the_fork(
    python: Path, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    pid = tmp_path / "pid"
    with subprocess.Popen([script(tmp_path, python, WAITS)], cwd=tmp_path) as process:
        assert waited(lambda: pid.exists() and bool(pid.read_text()), 60)
        assert psutil.pid_exists(int(pid.read_text()))
        process.send_signal(number)
        assert process.wait(patience(60)) == code
    assert waited(lambda: not psutil.pid_exists(int(pid.read_text())), 60)


def test_a_fork_that_is_killed_ends_its_client_likewise(
    python: Path, tmp_path: Path
) -> None:
    text = "import os\nos.kill(os.getpid(), 9)"
    assert (
        subprocess.run([script(tmp_path, python, text)], check=False).returncode == -9
    )
