"""The device's command as a person types it."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
from pathlib import Path

import pytest
from patience import patience

from device_profiles import load_board, load_profile
from edge_sdk.datasets.prepare import prepare_folders
from edge_sdk.device.probe.report import write_profile
from edge_sdk.terminal import Exit


def flash_edge(
    *arguments: str, cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "edge_sdk.cli", *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=patience(120),
        check=False,
    )


@pytest.fixture
def settings(tmp_path: Path) -> Path:
    data = prepare_folders(
        "digits", tmp_path / "cache", tmp_path / "data", ["pi-1"], alpha=1.0, seed=1
    )
    file = tmp_path / "pi-1.toml"
    file.write_text(
        'name = "pi-1"\nfederation = "home"\nbroker = "mqtt://127.0.0.1:1"\n'
        f'task = "digits"\ndata = "{data["pi-1"]}"\nstate = "state"\n'
        'profile = "raspberry_pi_4b_4gb"\nthreads = 1\n'
    )
    return file


def test_doctor_names_the_broker_that_does_not_answer_and_a_fix(settings: Path) -> None:
    done = flash_edge("doctor", str(settings))
    assert done.returncode == Exit.FOUND
    assert re.search(r"^problem +broker: .*\n +fix: ", done.stdout, re.MULTILINE)
    assert re.search(r"^PASS +torch: ", done.stdout, re.MULTILINE)


def test_doctor_says_which_kernels_train_here_or_why_none_do() -> None:
    assert "native kernels: " in flash_edge("doctor").stdout


def test_profile_measures_this_board_and_writes_what_run_can_read(
    settings: Path,
) -> None:
    done = flash_edge("profile", str(settings), "--seconds", "5", "--density", "0.2")
    assert done.returncode == 0, done.stderr
    written = load_profile(settings.parent / "state" / "profile.toml")
    assert written.provenance.kind == "measured"
    assert written.ram_mib > 0


def test_profile_writes_itself_into_the_settings_and_keeps_what_is_lent(
    settings: Path,
) -> None:
    (settings.parent / "own.toml").write_text(
        'like = "raspberry_pi_4b_4gb"\n[caps]\nram_mib = 3000\n'
    )
    text = settings.read_text().replace(
        'profile = "raspberry_pi_4b_4gb"', 'profile = "own.toml"  # by hand'
    )
    settings.write_text(text)
    line = ("profile", str(settings), "--seconds", "5", "--density", "0.2", "--write")
    done = flash_edge(*line)
    assert done.returncode == 0, done.stderr
    path = settings.parent / "state" / "profile.toml"
    after = text.replace('"own.toml"', f'"{path}"')
    assert settings.read_text() == after
    assert load_profile(path).provenance.kind == "measured"
    assert load_profile(path).caps.ram_mib == 3000


def test_a_reboot_during_the_probe_leaves_the_profile_of_before(settings: Path) -> None:
    """Killed while it trains, without a warning; only the old file is there."""
    state = settings.parent / "state"
    state.mkdir()
    path, before = state / "profile.toml", load_board("jetson_nano")
    write_profile(path, before)
    with subprocess.Popen(
        [sys.executable, "-m", "edge_sdk.cli", "profile", str(settings)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as probing:
        assert probing.stdout is not None
        said = next((line for line in probing.stdout if "training at" in line), "")
        probing.kill()
    assert said
    assert load_profile(path) == before
    assert list(state.iterdir()) == [path]


def test_service_prints_a_unit_that_may_only_write_its_state(settings: Path) -> None:
    unit = flash_edge("service", "show", str(settings)).stdout
    assert f"run {settings}" in unit
    assert "ProtectSystem=strict" in unit
    assert "MemoryMax" not in unit


def test_what_the_owner_lends_stands_in_the_unit(settings: Path) -> None:
    (settings.parent / "own.toml").write_text(
        'like = "raspberry_pi_4b_4gb"\n[caps]\nram_mib = 512\ncpu_share = 0.5\n'
    )
    text = settings.read_text().replace("raspberry_pi_4b_4gb", "own.toml")
    settings.write_text(text)
    unit = flash_edge("service", "show", str(settings)).stdout
    assert "MemoryMax=640M" in unit
    assert "CPUQuota=" in unit


def test_service_install_reads_device_toml_and_refuses_what_is_not_there(
    tmp_path: Path,
) -> None:
    done = flash_edge("service", "install", cwd=tmp_path)
    assert done.returncode == Exit.SETTINGS
    assert "device.toml does not exist" in done.stderr


def test_a_32_bit_bundle_is_refused_in_words(tmp_path: Path) -> None:
    done = flash_edge("bundle", str(tmp_path / "out"), "--platform", "armv7l")
    assert done.returncode == Exit.SETTINGS
    assert "32-bit" in done.stderr


def test_boards_lists_the_catalogue() -> None:
    assert "raspberry_pi_zero_2_w" in flash_edge("boards").stdout


def test_an_agent_without_kernels_says_once_what_that_costs(settings: Path) -> None:
    """As a wheel of another processor does, or a tree whose kernels vanished."""
    foreign = "neon" if platform.machine() == "x86_64" else "v3"
    with subprocess.Popen(
        [sys.executable, "-m", "edge_sdk.cli", "run", str(settings)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        env={**os.environ, "FLASH_EDGE_ISA": foreign},
    ) as agent:
        assert agent.stderr is not None
        said = []
        for line in agent.stderr:
            said.append(line)
            if "no link to" in line:
                agent.terminate()
    (warning,) = [line for line in said if "no native kernels" in line]
    assert "WARN" in warning
    assert "dense model" in warning
    assert "lower one" in warning
    assert "g++" in warning
