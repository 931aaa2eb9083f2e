"""The examples as their READMEs say: the very commands, in a copy of the folder."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import onnxruntime
import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
MODULES = {
    "flash-coordinator": "coordinator.cli",
    "flash-edge": "edge_sdk.cli",
    "flash-export": "export.cli",
}

pytestmark = pytest.mark.broker


def commands(folder: Path) -> list[list[str]]:
    """Every command of the folder's README, in order, as processes of this Python."""
    blocks = re.findall(r"```sh\n(.*?)```", (folder / "README.md").read_text(), re.S)
    found = []
    for line in "".join(blocks).splitlines():
        words = shlex.split(line)
        if words[0] == "python":
            found.append([sys.executable, *words[1:]])
        else:
            found.append([sys.executable, "-m", MODULES[words[0]], *words[1:]])
    return found


@pytest.mark.parametrize("name", ["01_three_terminals", "02_your_own_model"])
def test_the_readme_of_the_example_is_true(name: str, tmp_path: Path) -> None:
    folder = tmp_path / name
    made = shutil.ignore_patterns("data", "state", "cache", "*.sqlite*")
    shutil.copytree(EXAMPLES / name, folder, ignore=made)
    together = []  # a coordinator and its devices run side by side
    for command in commands(folder):
        if command[2:4] in (["coordinator.cli", "run"], ["edge_sdk.cli", "run"]):
            together.append(
                subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE)
            )
            continue
        for process in together:
            _, error = process.communicate(timeout=120)
            assert process.returncode == 0, error.decode()
        together.clear()
        subprocess.run(command, cwd=folder, check=True, timeout=120)
    models = list((folder / "federation" / "models").glob("*.onnx"))
    assert len(models) == 1
    assert onnxruntime.InferenceSession(models[0]).get_inputs()
    assert "100 %" in (folder / "federation" / "report.html").read_text()
