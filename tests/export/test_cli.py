"""The command line: one report or two lines of error, never a traceback."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from edge_sdk.checkpoint import Checkpoint
from edge_sdk.infer.run_key import make_run_key
from edge_sdk.terminal import Exit
from export import cli


def call(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["flash-export", *map(str, arguments)])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    return int(caught.value.code or 0)


def test_build_and_verify_print_json(
    checkpoint_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "m.onnx"
    build = ("build", checkpoint_file, "--out", out, "--json", "--batch", "dynamic")
    assert call(monkeypatch, *build) == 0
    built = json.loads(capsys.readouterr().out)
    assert built["format"] == "onnx-sparse"
    assert built["batch"] == "dynamic"
    verify = ("verify", out, "--checkpoint", checkpoint_file, "--json")
    assert call(monkeypatch, *verify) == 0
    assert json.loads(capsys.readouterr().out)["sha256"] == built["sha256"]


def test_a_person_reads_a_few_lines(
    checkpoint_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "m.onnx"
    assert call(monkeypatch, "build", checkpoint_file, "--out", out) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 5
    assert "smaller than dense" in lines[0]


@pytest.mark.parametrize(
    ("arguments", "message", "code"),
    [
        (["build", "none.safetensors"], "not a readable checkpoint", Exit.CHECKPOINT),
        (["build", "CHECKPOINT", "--format", "zip"], "no format 'zip'", Exit.EXPORT),
        (
            ["verify", "none.onnx", "--checkpoint", "CHECKPOINT"],
            "cannot be read",
            Exit.EXPORT,
        ),
    ],
)
def test_an_error_is_two_lines_and_a_code(
    checkpoint_file: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
    code: Exit,
) -> None:
    real = [str(checkpoint_file) if a == "CHECKPOINT" else a for a in arguments]
    assert call(monkeypatch, *real) == code
    error = capsys.readouterr().err.splitlines()
    assert len(error) == 2
    assert error[0].startswith("error: ")
    assert message in error[0]
    assert error[1].startswith("help: ")


def test_the_door_imports_without_torch_or_onnx() -> None:
    """A machine without the extra gets a sentence, not an ImportError."""
    code = (
        "import sys\n"
        "for name in ('torch', 'onnx', 'onnxruntime'):\n"
        "    sys.modules[name] = None\n"
        "import export, export.cli\n"
        "from edge_sdk.errors import DependencyError\n"
        "try:\n"
        "    export.build('x')\n"
        "except DependencyError as error:\n"
        "    print(error.help)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "pip install 'flash-edge[export]'"


def error_line(*arguments: object) -> dict[str, object]:
    done = subprocess.run(
        [sys.executable, "-m", "export.cli", *map(str, arguments),
         "--log-format", "json"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    line: dict[str, object] = json.loads(done.stderr.splitlines()[-1])
    return line


def test_json_lines_name_the_checkpoints_run_and_round(
    checkpoint: Checkpoint, checkpoint_file: Path, tmp_path: Path
) -> None:
    line = error_line("build", checkpoint_file, "--format", "zip")
    assert (line["run"], line["round"]) == (None, checkpoint.round_no)
    (tmp_path / "models").mkdir()
    shutil.copy(checkpoint_file, tmp_path / "models" / "m.safetensors")
    make_run_key(tmp_path)
    (tmp_path / "run.toml").write_text('federation = "home"\n')
    for command in (("build",), ("bundle", "--out", tmp_path / "new")):
        at = tmp_path / "models" / "m.safetensors"
        line = error_line(command[0], at, *command[1:], "--format", "zip")
        assert (line["run"], line["round"]) == ("home", checkpoint.round_no)
        assert "zip" in str(line["message"])
    line = error_line("verify", tmp_path / "none.onnx", "--checkpoint", at)
    assert (line["run"], line["round"]) == ("home", checkpoint.round_no)


def test_json_lines_name_a_bundles_run_and_round(tmp_path: Path) -> None:
    manifest = {"format": "flash-edge bundle 1", "run": "home", "round": 7}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    (tmp_path / "manifest.sig").write_text("nonsense")
    for command in ("verify", "bench"):
        line = error_line(command, tmp_path)
        assert (line["run"], line["round"]) == ("home", 7)
