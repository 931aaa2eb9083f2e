"""The boards' processors, emulated: wheels, kernels, and a real round.

Cortex-A53 is in the Pi 3 and Zero 2 W, A72 in the Pi 4, A76 in the Pi 5. The emulator
stops at an instruction that the processor does not have; that is how torch 2.10's trap
was found.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from arm.real_round import Run, finish, real_round

CPUS = ("cortex-a53", "cortex-a72", "cortex-a76")
HERE = Path(__file__).parent


@pytest.mark.slow
@pytest.mark.timeout(460)
@pytest.mark.parametrize("cpu", CPUS)
def test_our_wheel_imports_and_its_kernels_agree_with_dense_torch(
    on_arm: Run, cpu: str
) -> None:
    said = finish(on_arm(cpu, [str(HERE / "smoke_kernels.py")]), 440)
    assert "aarch64 torch 2." in said
    assert "neon" in said


@pytest.mark.slow
@pytest.mark.broker
@pytest.mark.timeout(560)
def test_an_emulated_board_takes_part_in_a_real_round(
    on_arm: Run, tmp_path: Path
) -> None:
    """A Pi 4's agent against a broker and a coordinator on the host."""
    device = 'profile = "raspberry_pi_4b_4gb"\nengine = "program"\n'
    real_round(on_arm, tmp_path, cpu="cortex-a72", device=device)
