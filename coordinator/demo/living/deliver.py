"""Deliveries of the living demo, by the commands that a person gives."""

from __future__ import annotations

import subprocess

from coordinator.demo.living.watch import Watch
from edge_sdk.child_process import child_module

__all__ = ["delivered", "round_of"]


def delivered(watch: Watch, no: int, name: str) -> str | None:
    """Bundle a round's model and deliver it; None if it went out, or why it did not.

    Args:
        watch: Finds the model.
        no: The round that gave it.
        name: Of its file and its bundle.
    """
    path = watch.save(no, name)
    if path is None:
        return f"the model of round {no} is gone"
    bundle = str(watch.run / "bundles" / name)
    made = ["export.cli", "bundle", str(path), "--out", bundle, "--format", "native"]
    sent = ["coordinator.cli", "deliver", str(watch.run), bundle]
    for module, *line in (made, sent):
        done = subprocess.run(  # noqa: S603 - our own modules
            child_module(module, *line),
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            check=False,
        )
        if done.returncode:
            return " ".join(done.stderr.split())[-400:]
    return None


def round_of(device: dict[str, object]) -> str:
    """The round of the model that a device runs, as ``round 7``; empty for none."""
    model = device.get("model")
    label = str(model["label"]) if isinstance(model, dict) else ""
    return label.rpartition(", ")[2]
