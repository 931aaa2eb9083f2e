"""A bound command: its code, its words, and its end with whoever asked for it."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from patience import waited

from edge_sdk.deploy.bound_command import run_leashed


def runs(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def wait_for(condition: Callable[[], bool]) -> None:
    assert waited(condition, 60), "it never came"


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("echo fine", (0, "fine")),
        ("exit 3", (3, "")),
        ("echo out; echo one >&2; echo two >&2; exit 4", (4, "two")),
        ("yes | head -c 100000; echo; echo last", (0, "last")),
        ("kill -9 $$", (137, "")),
        ("cat; exit 5", (5, "")),  # stdin is empty, not the terminal's
    ],
)
def test_a_command_ends_with_its_code_and_last_words(
    script: str, expected: tuple[int, str]
) -> None:
    assert run_leashed(("sh", "-c", script), timeout_s=60) == expected


def test_a_program_that_is_not_there_is_said() -> None:
    code, said = run_leashed(("/no/such/tool",), timeout_s=60)
    assert code == 127
    assert said.startswith("it cannot be started: ")
    assert "/no/such/tool" in said


def test_a_command_and_its_children_die_with_a_killed_caller(tmp_path: Path) -> None:
    note = tmp_path / "pids"
    script = f"sleep 600 & echo $$ $! > {note}.new; mv {note}.new {note}; wait"
    code = "import sys; from edge_sdk.deploy.bound_command import run_leashed\n"
    code += "run_leashed(sys.argv[1:], timeout_s=600)"
    caller = subprocess.Popen([sys.executable, "-c", code, "sh", "-c", script])
    try:
        wait_for(lambda: note.exists() or caller.poll() is not None)
        pids = [int(word) for word in note.read_text().split()]
        assert [runs(pid) for pid in pids] == [True, True]
    finally:
        caller.kill()
        caller.wait()
    wait_for(lambda: not any(runs(pid) for pid in pids))


def test_a_command_that_takes_too_long_is_killed_with_its_children(
    tmp_path: Path,
) -> None:
    note = tmp_path / "pid"
    script = f"sleep 600 & echo $! > {note}.new; mv {note}.new {note}; wait"
    for limit in (1, 4, 16, 64):  # on a busy machine it may be over before it began
        with pytest.raises(subprocess.TimeoutExpired):
            run_leashed(("sh", "-c", script), timeout_s=limit)
        if note.exists():
            break
    pid = int(note.read_text())
    wait_for(lambda: not runs(pid))


def test_an_app_that_is_started_in_the_background_stays(tmp_path: Path) -> None:
    note = tmp_path / "pid"
    script = f"sleep 600 & echo $! > {note}; echo started"  # it keeps stdout open
    assert run_leashed(("sh", "-c", script), timeout_s=60) == (0, "started")
    pid = int(note.read_text())
    assert runs(pid)
    os.kill(pid, signal.SIGKILL)
