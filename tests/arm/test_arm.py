"""The boards' processors, emulated: wheels, kernels, and a real round.

Cortex-A53 is in the Pi 3 and Zero 2 W, A72 in the Pi 4, A76 in the Pi 5. The emulator
stops at an instruction that the processor does not have; that is how torch 2.10's trap
was found.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from patience import patience

from coordinator.broker.start import open_broker

CPUS = ("cortex-a53", "cortex-a72", "cortex-a76")
HERE = Path(__file__).parent
Run = Callable[..., "subprocess.Popen[str]"]


def finish(process: subprocess.Popen[str], seconds: float) -> str:
    try:
        said, _ = process.communicate(timeout=patience(seconds))
    except subprocess.TimeoutExpired:
        process.kill()
        said, _ = process.communicate()
        pytest.fail(f"not done within {seconds} s of an idle machine: {said[-2000:]}")
    assert process.returncode == 0, said[-3000:]
    return said


@pytest.mark.slow
@pytest.mark.timeout(460)
@pytest.mark.parametrize("cpu", CPUS)
def test_our_wheel_imports_and_its_kernels_agree_with_dense_torch(
    on_arm: Run, cpu: str
) -> None:
    said = finish(on_arm(cpu, [str(HERE / "smoke_kernels.py")]), 440)
    assert "aarch64 torch 2." in said
    assert "neon" in said


def examples(path: Path, count: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(
        path,
        inputs=rng.integers(0, 17, (count, 1, 8, 8)).astype(np.uint8),
        targets=rng.integers(0, 10, count),
    )


@pytest.mark.slow
@pytest.mark.broker
@pytest.mark.timeout(560)
def test_an_emulated_board_takes_part_in_a_real_round(
    on_arm: Run, tmp_path: Path
) -> None:
    """A Pi 4's agent against a broker and a coordinator on the host."""
    examples(tmp_path / "data/train.npz", 96, 1)
    examples(tmp_path / "eval/eval.npz", 64, 2)
    with open_broker(None, tmp_path / "broker") as broker:
        (tmp_path / "run.toml").write_text(
            f'federation = "home"\ntask = "digits"\nbroker = "{broker.url}"\n'
            f'evaluation = "{tmp_path / "eval"}"\ndensities = [0.2]\nrounds = 1\n'
            'wait_for = 1\nalgorithm = "erk"\nround_budget_s = 60\n'
        )
        (tmp_path / "device.toml").write_text(
            'name = "pi-4"\nfederation = "home"\n'
            f'broker = "{broker.url}"\ntask = "digits"\n'
            f'data = "{tmp_path / "data"}"\nstate = "{tmp_path / "state"}"\n'
            'profile = "raspberry_pi_4b_4gb"\nengine = "program"\nthreads = 1\n'
        )
        coordinator = subprocess.Popen(
            [sys.executable, "-m", "coordinator.cli", "run", str(tmp_path)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        start = "from edge_sdk.cli import main; main()"
        agent = on_arm(
            "cortex-a72",
            ["-c", start, "run", str(tmp_path / "device.toml"), "--until-done"],
        )
        try:
            said = finish(agent, 440)
            finish(coordinator, 60)
        finally:
            for process in (agent, coordinator):
                process.kill()
    assert "accepted" in said, said[-2000:]
