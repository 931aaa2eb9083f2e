"""Advice on what to do next with a run, with the command."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from coordinator.views.deployment import advised_densities, deployment_text
from coordinator.views.device_view import UNREAD
from coordinator.views.run_view import RunView

__all__ = ["next_step"]

FEW = 3  # devices named; the others are counted


def next_step(
    view: RunView, folder: Path, evaluation: str, *, runs: bool
) -> dict[str, Any]:
    """Advice on the one thing to do now, or to wait for.

    Args:
        view: The run.
        folder: The run's, as commands name it.
        evaluation: Folder of the evaluation examples.
        runs: Whether a coordinator runs in the folder, on this machine.

    Returns:
        `say`, a sentence or two, and `commands`: what each is for, and its text.
    """
    here = shlex.quote(str(folder))
    logs = ("read its log", f"flash-coordinator logs {here} --level warning")
    rounds = view.rounds
    last = rounds[-1] if rounds else None
    if view.is_done:
        return _done(view, folder, evaluation)
    if not runs:
        verb = "resume" if rounds else "run"
        return _step(
            "No coordinator runs in this folder on this machine. What was accepted is "
            "kept, and the run continues where it stopped.",
            ("continue", f"flash-coordinator {verb} {here}"),
            ("check first", f"flash-coordinator doctor {here}"),
            logs,
        )
    if not view.devices:
        return _step(
            "No device has sent a HELLO yet. Enrol one here, then start its agent "
            "there "
            "with the line that is printed.",
            ("enrol a device", f"flash-coordinator enroll {here} pi-1 --new"),
            (
                "there, after that",
                "flash-edge doctor DEVICE_FOLDER/device.toml",
            ),
            logs,
        )
    if last is not None and last.is_aborted:
        name = f"Round {last.no}" if last.no else "The warm-up"
        return _step(f"{name} was given up: {last.note}", logs)
    status = ("the same on a terminal", f"flash-coordinator status {here} --live")
    if said := _said_of_devices(view):
        doctor = "flash-edge doctor DEVICE_FOLDER/device.toml"
        return _step(said, ("on the device", doctor), status)
    waits = "a round" if view.open else "the next round"
    return _step(f"Nothing: {waits} is running. Look again when it ends.", status)


def _said_of_devices(view: RunView) -> str:
    """Devices that somebody should look at, and why; empty if there are none."""
    off = [d.name for d in view.devices if not d.online and not d.is_revoked]
    if off:
        return (
            f"{_count(len(off), 'device is', 'devices are')} offline: {_named(off)}. "
            "The others continue; check the agent on these devices."
        )
    unread = [d.name for d in view.devices if d.data_error and not d.is_revoked]
    first = next((d for d in view.devices if d.name in unread[:1]), None)
    if first is None:
        return ""
    return (
        f"{_named(unread)}: {UNREAD} {first.data_error} The run goes on; mend the "
        "source, and it is read again before the next task."
    )


def _named(names: list[str]) -> str:
    more = f" and {len(names) - FEW} more" if len(names) > FEW else ""
    return ", ".join(names[:FEW]) + more


def _done(view: RunView, folder: Path, evaluation: str) -> dict[str, Any]:
    here = shlex.quote(str(folder))
    top = max(view.run.densities)
    last = view.last_scored
    scores = {float(d): row for d, row in (last.scores or {}).items()} if last else {}
    density = advised_densities(scores, view.metric).get(top, top)
    better = deployment_text(scores, view.metric)
    model = shlex.quote(str(folder / "models" / f"density-{density:g}.safetensors"))
    bundle = shlex.quote(str(folder / "exports" / f"bundle-{density:g}"))
    data = f" --data {shlex.quote(evaluation)}" if evaluation else ""
    return _step(
        "The run is done. Export a model of it and check it, then deliver it to the "
        "boards." + (f" By the last scores, {better}." if better else ""),
        ("export and check", f"flash-export build {model}{data}"),
        ("sign for boards", f"flash-export bundle {model} --out {bundle}"),
        ("deliver", f"flash-coordinator deliver {here} {bundle}"),
    )


def _step(say: str, *commands: tuple[str, str]) -> dict[str, Any]:
    return {
        "say": say,
        "commands": [{"what": what, "command": text} for what, text in commands],
    }


def _count(n: int, one: str, many: str) -> str:
    return f"{n} {one if n == 1 else many}"
