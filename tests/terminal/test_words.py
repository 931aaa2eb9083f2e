"""The word that was meant, and what the shell offers after Tab."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from past import Past
from patience import patience

from edge_sdk.errors import ExportError
from edge_sdk.terminal import Exit

COMMANDS = {
    "flash-edge": "edge_sdk",
    "flash-coordinator": "coordinator",
    "flash-export": "export",
}


def run(module: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", f"{module}.cli", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=patience(60),
    )


@pytest.mark.parametrize(
    ("module", "arguments", "meant", "code"),
    [
        ("coordinator", ["statsu", "."], "Did you mean 'status'?", Exit.USAGE),
        ("edge_sdk", ["docter"], "Did you mean 'doctor'?", Exit.USAGE),
        ("export", ["biuld", "x"], "Did you mean 'build'?", Exit.USAGE),
        ("edge_sdk", ["boards", "--jsn"], "Possible options: --json", Exit.USAGE),
        (
            "coordinator",
            ["plan", "--task", "mnits"],
            "did you mean mnist",
            Exit.TASK,
        ),
        (
            "coordinator",
            ["plan", "--task", "digits", "--board", "raspbery_pi_4b_4gb"],
            "did you mean raspberry_pi_4b_4gb",
            Exit.SETTINGS,
        ),
        (
            "coordinator",
            ["simulate", "RUN", "--preset", "flash-mnits"],
            "did you mean flash-mnist",
            Exit.SETTINGS,
        ),
        (
            "coordinator",
            ["simulate", "RUN", "--preset", "flash-mnist", "--algorithm", "fedavgg"],
            "did you mean fedavg",
            Exit.SETTINGS,
        ),
        ("coordinator", ["run", "ALGORITHM"], "did you mean flash-edge", Exit.SETTINGS),
        ("coordinator", ["run", "KEY"], "did you mean max_steps", Exit.SETTINGS),
        ("coordinator", ["devices", "PAST", "pi-00O1"], "did you mean pi-0001", 17),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else None,
)
def test_a_slip_of_the_finger_is_answered_with_the_word_that_was_meant(
    tmp_path: Path, module: str, arguments: list[str], meant: str, code: int
) -> None:
    real = [str(PLACES[a](tmp_path)) if a in PLACES else a for a in arguments]
    done = run(module, *real)
    said = re.sub(r"[\s│]+", " ", done.stderr)  # boxes break lines where they like
    assert meant in said
    assert done.returncode == code


def _run(tmp_path: Path, more: str) -> Path:
    (tmp_path / "run.toml").write_text(
        'federation = "home"\ntask = "digits"\nevaluation = "."\n'
        f"densities = [0.1]\nrounds = 1\n{more}"
    )
    return tmp_path


def _past(tmp_path: Path) -> Path:
    past = Past(tmp_path / "past", devices=3)
    past.hello()
    past.ledger.close()
    return past.folder


PLACES: dict[str, Callable[[Path], Path]] = {
    "RUN": lambda folder: folder / "run",
    "ALGORITHM": lambda folder: _run(folder, 'algorithm = "flash-egde"\n'),
    "KEY": lambda folder: _run(folder, "[training]\nmax_step = 3\n"),
    "PAST": _past,
}


def test_a_format_that_is_not_there_is_answered_with_those_that_sound_alike() -> None:
    from export.targets.table import find_target

    with pytest.raises(ExportError, match="did you mean onnx-sparse"):
        find_target("onxx-sparse")


@pytest.fixture(scope="module")
def commands(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the three console scripts, as an installation has them."""
    folder = tmp_path_factory.mktemp("bin")
    for name, module in COMMANDS.items():
        script = folder / name
        script.write_text(
            f"#!{sys.executable}\nfrom {module}.cli import main\nmain()\n"
        )
        script.chmod(0o755)
        told = subprocess.run(
            # Not its last command: bash stays its parent, which says what shell it is.
            ["bash", "--norc", "-c", f"{name} --show-completion; exit $?"],
            env={**os.environ, "PATH": f"{folder}:{os.environ['PATH']}"},
            capture_output=True,
            text=True,
            check=True,
            timeout=patience(60),
        )
        (folder / f"{name}.bash").write_text(told.stdout)
    return folder


def completed(commands: Path, line: str) -> list[str]:
    """What bash offers at the end of a line, by the script that we tell it to load."""
    name, *words = line.split(" ")
    function = f"_{name.replace('-', '_')}_completion"
    quoted = " ".join(f"'{word}'" for word in (name, *words))
    script = (
        f"source {commands / name}.bash; COMP_WORDS=({quoted}); "
        f"COMP_CWORD={len(words)}; {function} {name}; printf '%s\\n' "
        '"${COMPREPLY[@]}"'
    )
    done = subprocess.run(
        ["bash", "--norc", "-c", script],
        env={**os.environ, "PATH": f"{commands}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=True,
        timeout=patience(60),
    )
    assert done.stderr == ""
    return done.stdout.split()


def test_bash_completes_commands_options_and_names(
    commands: Path, tmp_path: Path
) -> None:
    assert completed(commands, "flash-coordinator res") == ["resume"]
    assert completed(commands, "flash-edge boards --j") == ["--json"]
    assert completed(commands, "flash-edge service in") == ["install"]
    found = completed(commands, "flash-coordinator simulate r --algorithm flash")
    assert set(found) >= {"flash", "flash-edge"}
    assert all(name.startswith("flash") for name in found)
    found = completed(commands, "flash-coordinator plan --board jetson_")
    assert len(found) > 1
    assert completed(commands, "flash-coordinator init f --task dig") == ["digits"]
    assert "onnx-sparse" in completed(commands, "flash-export build c --format onnx")
    past = _past(tmp_path)
    found = completed(commands, f"flash-coordinator devices {past} pi-000")
    assert found == ["pi-0000", "pi-0001", "pi-0002"]
    assert completed(commands, f"flash-coordinator devices {tmp_path} pi-") == []
