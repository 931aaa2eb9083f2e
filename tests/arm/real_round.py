"""A round of a federation with one emulated board, and the wait for its end."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from patience import patience

from coordinator.broker.start import open_broker

__all__ = ["Run", "finish", "real_round"]

Run = Callable[..., "subprocess.Popen[str]"]


def finish(process: subprocess.Popen[str], seconds: float) -> str:
    """What a process said until its end, which is without an error."""
    try:
        said, _ = process.communicate(timeout=patience(seconds))
    except subprocess.TimeoutExpired:
        process.kill()
        said, _ = process.communicate()
        pytest.fail(f"not done within {seconds} s of an idle machine: {said[-2000:]}")
    assert process.returncode == 0, said[-3000:]
    return said


def real_round(
    on_arm: Run, folder: Path, *, cpu: str, device: str, start: str = ""
) -> str:
    """Broker and coordinator on the host, the board's agent in the emulator.

    Args:
        on_arm: Starts Python in the emulator.
        folder: For everybody's files.
        cpu: The board's processor.
        device: Lines of its device.toml.
        start: Python that runs before the agent.

    Returns:
        What the agent said.
    """
    _examples(folder / "data/train.npz", 96, 1)
    _examples(folder / "eval/eval.npz", 64, 2)
    with open_broker(None, folder / "broker") as broker:
        (folder / "run.toml").write_text(
            f'federation = "home"\ntask = "digits"\nbroker = "{broker.url}"\n'
            f'evaluation = "{folder / "eval"}"\ndensities = [0.2]\nrounds = 1\n'
            'wait_for = 1\nalgorithm = "erk"\nround_budget_s = 60\n'
        )
        (folder / "device.toml").write_text(
            'name = "board"\nfederation = "home"\n'
            f'broker = "{broker.url}"\ntask = "digits"\n'
            f'data = "{folder / "data"}"\nstate = "{folder / "state"}"\n'
            f"threads = 1\n{device}"
        )
        coordinator = subprocess.Popen(
            [sys.executable, "-m", "coordinator.cli", "run", str(folder)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        agent = on_arm(
            cpu,
            [
                *("-c", start + "from edge_sdk.cli import main; main()"),
                *("run", str(folder / "device.toml"), "--until-done"),
            ],
        )
        try:
            said = finish(agent, 440)
            finish(coordinator, 60)
        finally:
            for process in (agent, coordinator):
                process.kill()
    assert "accepted" in said, said[-2000:]
    return said


def _examples(path: Path, count: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(
        path,
        inputs=rng.integers(0, 17, (count, 1, 8, 8)).astype(np.uint8),
        targets=rng.integers(0, 10, count),
    )
