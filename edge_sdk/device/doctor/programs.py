"""torch and the native kernels, each tried in another process.

A build for another processor dies of an illegal instruction, and a doctor must survive
that to say so.
"""

from __future__ import annotations

import platform
import re
import signal
import subprocess
from importlib import metadata

from edge_sdk.child_process import child_code, output_of
from edge_sdk.device.doctor.check import DoctorTarget, Skipped, check_of
from edge_sdk.errors import EdgeError
from edge_sdk.training.program_engine.kept import kept_program

__all__ = ["engine", "examples", "kernels", "memory", "torch", "torch_complaint"]

TORCH_FIX = "pip install 'torch>=2.7,<2.10'"
_TORCH_TRIAL = """
import torch
layer = torch.nn.Conv2d(4, 8, 3)
layer(torch.ones(2, 4, 8, 8)).sum().backward()
print(torch.__version__)
"""
_KERNEL_TRIAL = """
from edge_sdk.kernels.library import available, unavailable_reason
name = available()
print(name if name else "-" + str(unavailable_reason()))
"""

_DATA_TRIAL = """
import sys, pathlib
from edge_sdk.errors import EdgeError
from edge_sdk.tasks.without_torch.halves import torch_is_here
from edge_sdk.tasks.task import load_task
from edge_sdk.training.program_engine.kept import check_by_kept
beside, folder, state = map(pathlib.Path, sys.argv[2:])
try:
    task = load_task(sys.argv[1], beside=beside)
    if torch_is_here():
        from edge_sdk.tasks.layers import make_model
        from edge_sdk.tasks.model_state import check_model
        check_model(make_model(task, 0))
    found = task.read_train(folder)
    if not torch_is_here():
        check_by_kept(state, task, found)
except EdgeError as error:
    sys.exit(f"{error}\\t{error.help}".replace("\\n", " "))
print(len(found))
"""

_IMPORT_TRIAL = """
import sys, pathlib
from edge_sdk.settings import DeviceSettings, load_settings
from edge_sdk.tasks.task import load_task
from edge_sdk.training.program_engine.choice import why_torch_now
path = pathlib.Path(sys.argv[1])
own = load_settings(path, DeviceSettings)
task = load_task(own.task, beside=path.parent)
print("now: " + why_torch_now(task, own.engine, own.device, own.state))
"""

_PLAN_TRIAL = """
import sys, pathlib
from edge_sdk.device.doctor.plans import told_plans
from edge_sdk.errors import EdgeError
try:
    print(told_plans(pathlib.Path(sys.argv[1])))
except EdgeError as error:
    sys.exit(f"{error}\\t{error.help}".replace("\\n", " "))
"""


def torch_complaint(version: str, machine: str) -> str | None:
    """The known fault of a torch version on a processor; None without one.

    Example:
        >>> torch_complaint("2.10.0", "aarch64") is not None
        True
        >>> torch_complaint("2.9.1", "aarch64") is None
        True
    """
    match = re.match(r"(\d+)\.(\d+)", version)
    if match is None:
        return f"torch has the version {version!r}, which says nothing"
    release = int(match[1]), int(match[2])
    if release < (2, 4):
        return f"torch {version} is older than 2.4"
    if machine in ("aarch64", "arm64") and release == (2, 10):
        return (
            f"torch {version} for ARM dies of an illegal instruction on Cortex-A53 and "
            "A72 (Raspberry Pi 3 and 4)"
        )
    return None


@check_of("torch")
def torch(_: DoctorTarget) -> str:
    """One training step; the build that traps on small ARM cores is named."""
    version = _torch_version()
    if not version:
        return Skipped("not installed: programs of the coordinator's train here")
    complaint = torch_complaint(version, platform.machine())
    if complaint:
        raise EdgeError(complaint, remedy=TORCH_FIX)
    code, said = _trial(_TORCH_TRIAL)
    if code == -signal.SIGILL:
        raise EdgeError(
            f"torch {version} was built for another processor (illegal instruction)",
            remedy=TORCH_FIX,
        )
    if code:
        raise EdgeError(f"it does not train: {said}", remedy=TORCH_FIX)
    return f"{said} trains"


@check_of("native kernels")
def kernels(_: DoctorTarget) -> str:
    """Check that the native kernels load on this machine."""
    code, said = _trial(_KERNEL_TRIAL)
    if code == 0 and not said.startswith("-"):
        return said
    until = (
        'engine = "masked" trains, without saving time.'
        if _torch_version()
        else "nothing trains here, as there is no torch either."
    )
    raise EdgeError(
        said.removeprefix("-") or f"the trial ended with {code}",
        remedy="Install a wheel for this processor, or g++ to build them; until then "
        f"{until}",
    )


@check_of("engine")
def engine(patient: DoctorTarget) -> str:
    """Name the engine that trains here, and why."""
    wanted = patient.engine or "auto"
    code, kernels_ = _trial(_KERNEL_TRIAL)
    here = code == 0 and not kernels_.startswith("-")
    version = _torch_version()
    if not version:
        if here and wanted != "masked":
            return f"program: there is no torch, kernels {kernels_}"
        why = (
            "no kernels" if wanted != "masked" else 'engine = "masked" in the settings'
        )
        raise EdgeError(
            f"none: there is no torch here, and {why}",
            remedy='Set engine = "auto" and see native kernels above, or: pip install '
            "'flash-edge[device]'; on a Jetson take NVIDIA's own wheel.",
        )
    if wanted == "masked" or not here:
        why = 'engine = "masked" in the settings' if here else "there are no kernels"
        return f"masked, at dense speed: {why}"
    how = "the settings ask for it" if wanted == "program" else "raced against masked"
    return f"program: {how}; torch {version}{_imported(patient)}, kernels {kernels_}"


def _imported(patient: DoctorTarget) -> str:
    """Words for when the agent imports torch; none where it cannot be told."""
    if patient.settings is None:
        return ""
    code, said = _trial(_IMPORT_TRIAL, str(patient.settings))
    if code:  # the settings or the task: other checks say what is wrong with them
        return ""
    why = said.removeprefix("now: ")
    return f" imported at the start ({why})" if why else " imported when it is needed"


def _torch_version() -> str:
    """Version of the installed torch; empty without one."""
    try:
        return metadata.version("torch")
    except metadata.PackageNotFoundError:
        return ""


@check_of("examples")
def examples(patient: DoctorTarget) -> str:
    """The task can be imported, and finds its examples."""
    if patient.task is None:
        return Skipped("no settings were named")
    code, said = _trial(
        *(_DATA_TRIAL, patient.task),
        *map(str, (patient.beside, patient.data, patient.state)),
    )
    if code == 0:
        return f"{said} of task {patient.task}"
    what, _, fix = said.partition("\t")
    fix = fix or "Run the task's own train_data on that folder to see more."
    raise EdgeError(what, remedy=fix)


@check_of("memory plan")
def memory(patient: DoctorTarget) -> str:
    """Say how a step is planned under the memory that the agent may hold."""
    if patient.settings is None:
        return Skipped("no settings were named")
    if not kept_program(patient.state):
        return Skipped("no training program has come yet; it comes with the first task")
    code, said = _trial(_PLAN_TRIAL, str(patient.settings))
    if code == 0:
        return said
    what, _, fix = said.partition("\t")
    raise EdgeError(what, remedy=fix or "Raise caps.ram_mib, or take a smaller model.")


def _trial(program: str, *arguments: str) -> tuple[int, str]:
    """Exit status and last line of a Python program in a process of its own."""
    try:
        done = output_of(child_code(program, *arguments), timeout_s=120)
    except subprocess.TimeoutExpired:
        return 1, "no answer within two minutes"
    lines = (done.stdout if done.returncode == 0 else done.stderr).split("\n")
    return done.returncode, next((line for line in reversed(lines) if line), "")
