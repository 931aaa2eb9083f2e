"""Task names and relative paths mean the same in every command."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from coordinator.simulation import command
from edge_sdk.deploy.bound_command import run_leashed
from edge_sdk.deploy.target import place_of
from edge_sdk.errors import TaskError
from edge_sdk.infer.run_key import PRIVATE
from edge_sdk.settings import DeviceSettings, load_settings, profile_of
from edge_sdk.tasks import task as task_module
from edge_sdk.tasks.task import load_task
from export.api import look_beside

BLOBS = """
from pathlib import Path
import numpy as np
from torch import nn
from torch.nn import functional as F
from edge_sdk.tasks import Examples, Task

def read(folder: Path) -> Examples:
    return Examples(np.zeros((7, 4), np.float32), np.zeros(7, np.int64))

task = Task(
    name="blobs", model=lambda: nn.Linear(4, 2), loss=F.cross_entropy,
    train_data=read, eval_data=read, input_shape=(4,), labels=("a", "b"),
)
"""
DEVICE = """
name = "device-1"
federation = "blobs"
broker = "mqtt://127.0.0.1:9"
task = "own_blobs:task"
data = "device-1"
state = "state"
profile = "own.toml"
threads = 1
"""
RUN = """
federation = "blobs"
task = "own_blobs:task"
evaluation = "data"
densities = [0.5]
rounds = 1
wait_for = 1
"""


@pytest.fixture(autouse=True)
def _as_it_was(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    before = set(sys.modules)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield
    for name in set(sys.modules) - before:
        if name.startswith("own_"):
            del sys.modules[name]


@pytest.fixture(params=["beside the settings", "in the current folder"])
def home(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A current folder with settings in ``sub``, and the task in either."""
    sub = tmp_path / "sub"
    (sub / "device-1").mkdir(parents=True)
    there = sub if request.param == "beside the settings" else tmp_path
    (there / "own_blobs.py").write_text(BLOBS, encoding="utf-8")
    (sub / "own.toml").write_text('like = "raspberry_pi_4b_4gb"\n', encoding="utf-8")
    (sub / "device.toml").write_text(DEVICE, encoding="utf-8")
    (sub / "run.toml").write_text(RUN, encoding="utf-8")
    return tmp_path


def cli(program: str, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """As the console script does it: the current folder is not on the path."""
    start = f"import sys; del sys.path[0]; from {program} import main; main()"
    return subprocess.run(
        [sys.executable, "-c", start, *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
    )


def test_run_and_doctor_find_the_same_task_and_profile(home: Path) -> None:
    told = cli("edge_sdk.cli", "doctor", "sub/device.toml", cwd=home).stdout
    assert "PASS     examples: 7 of task own_blobs:task" in told
    assert "PASS     profile: raspberry_pi_4b_4gb" in told
    start = "import sys; del sys.path[0]; from edge_sdk.cli import main; main()"
    with subprocess.Popen(
        [sys.executable, "-c", start, "run", "sub/device.toml"],
        cwd=home,
        stderr=subprocess.STDOUT,
        stdout=subprocess.PIPE,
        encoding="utf-8",
    ) as agent:
        assert agent.stdout is not None
        said = next((line for line in agent.stdout if "examples of task" in line), "")
        agent.terminate()
        with contextlib.suppress(ValueError):
            agent.communicate()
    assert "device-1: 7 examples of task blobs" in said


def test_the_coordinators_doctor_finds_it_too(home: Path) -> None:
    told = cli("coordinator.cli", "doctor", "sub", cwd=home).stdout
    assert "PASS     task: blobs, evaluated on 7 examples" in told


def test_the_service_runs_where_run_would_find_the_task(home: Path) -> None:
    unit = cli("edge_sdk.cli", "service", "show", "sub/device.toml", cwd=home).stdout
    beside = (home / "sub" / "own_blobs.py").exists()
    where = home / "sub" / "state" if beside else home
    assert f"WorkingDirectory={where}\n" in unit


def test_an_export_looks_in_its_runs_folder(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(home)
    (home / "sub" / "checkpoints").mkdir()
    (home / "sub" / PRIVATE).touch()
    look_beside(Path("sub/checkpoints/model-0.5.ckpt"))
    assert load_task("own_blobs:task").name == "blobs"


def test_a_users_file_stands_in_for_no_installed_module(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("colorsys", "own_other"):
        (tmp_path / f"{name}.py").write_text(BLOBS, encoding="utf-8")
    with pytest.raises(TaskError, match="the name of an installed module") as told:
        load_task("colorsys:task", beside=tmp_path)
    assert str(tmp_path / "colorsys.py") in str(told.value)
    assert sys.path[-1] == str(tmp_path)
    assert load_task("own_other:task", beside=tmp_path).name == "blobs"


def test_a_task_that_is_nowhere_says_where_it_was_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sub").mkdir()
    with pytest.raises(TaskError, match="No module named") as told:
        load_task("own_nowhere:task", beside=Path("sub"))
    assert f"{tmp_path / 'sub'}, {tmp_path}" in str(told.value)


def test_a_broken_import_inside_the_task_is_not_taken_for_a_missing_task(
    tmp_path: Path,
) -> None:
    text = "import own_missing_part\n"
    (tmp_path / "own_broken.py").write_text(text, encoding="utf-8")
    with pytest.raises(TaskError, match="own_missing_part") as told:
        load_task("own_broken:task", beside=tmp_path)
    assert "looked in" not in str(told.value)


def test_folders_are_looked_at_in_one_order_and_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sub").mkdir()
    for _ in range(2):
        task_module.find_tasks_beside(Path("sub"))
    assert sys.path[-2:] == [str(tmp_path / "sub"), str(tmp_path)]
    assert sys.path.count(str(tmp_path)) == 1


def test_a_simulations_folder_counts_from_its_settings_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sub").mkdir()
    file = Path("sub/sim.toml")
    file.write_text('task = "digits"\nfolder = "data"\nrounds = 1\n', encoding="utf-8")
    found = command.settings_from(tmp_path / "run", None, file, {"densities": [0.5]})
    assert found.folder == str(tmp_path / "sub" / "data")
    (tmp_path / "data").mkdir()  # where only the current folder has it
    found = command.settings_from(tmp_path / "run", None, file, {"densities": [0.5]})
    assert found.folder == str(tmp_path / "data")


def test_a_health_command_runs_in_the_settings_folder(home: Path) -> None:
    (home / "sub" / "check.sh").write_text("pwd\n", encoding="utf-8")
    file = home / "sub" / "device.toml"
    text = DEVICE + 'models = "models"\nhealth = "sh check.sh"\n'
    file.write_text(text, encoding="utf-8")
    place = place_of(load_settings(file, DeviceSettings), file.parent)
    assert place is not None
    done = run_leashed(place.health, timeout_s=600, cwd=place.home)
    assert done == (0, str(home / "sub"))


def test_a_profile_counts_from_the_settings_folder(home: Path) -> None:
    assert profile_of("own.toml", home / "sub").board == "raspberry_pi_4b_4gb"
    shutil.move(home / "sub" / "own.toml", home / "other.toml")
    assert profile_of("../other.toml", home / "sub").board == "raspberry_pi_4b_4gb"
