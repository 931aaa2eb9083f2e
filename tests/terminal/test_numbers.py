"""Numbers that are none, in settings and on the command line: an error in words."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from patience import patience

from coordinator.settings import load_run
from edge_sdk.errors import EdgeError, SettingsError
from edge_sdk.settings import DeviceSettings, load_settings
from edge_sdk.terminal import Exit
from edge_sdk.toml_file import load_toml, no_number

HUGE = "123456789012345678901234567890"
RUN = """federation = "home"
task = "digits"
evaluation = "e"
densities = [0.1]
"""


@pytest.mark.parametrize(
    ("line", "key"),
    [
        (f"rounds = {HUGE}", "rounds"),
        (f"rounds = {1 << 63}", "rounds"),
        (f"rounds = -{HUGE}", "rounds"),
        ("rounds = 1\nround_budget_s = inf", "round_budget_s"),
        ("rounds = 1\nround_budget_s = nan", "round_budget_s"),
        ("rounds = 1\nround_budget_s = 1e999", "round_budget_s"),
        (f"rounds = 1\nseed = {HUGE}", "seed"),
        (f"rounds = 1\nport = {HUGE}", "port"),
        ("rounds = 1\n[training]\nrate = nan", "training.rate"),
        (f"rounds = 1\n[training]\nmax_steps = {HUGE}", "training.max_steps"),
        (f"rounds = 1\n[gate]\nclip = {'9' * 400}", "gate.clip"),
    ],
)
def test_a_run_with_such_a_number_names_file_and_key(
    tmp_path: Path, line: str, key: str
) -> None:
    path = tmp_path / "run.toml"
    path.write_text(RUN + line)
    with pytest.raises(SettingsError) as caught:
        load_run(path)
    assert f"{path}: key {key}: " in str(caught.value)


def test_a_devices_settings_do_the_same(tmp_path: Path) -> None:
    path = tmp_path / "device.toml"
    path.write_text(
        'name = "pi-1"\nfederation = "home"\nbroker = "mqtt://h"\ntask = "digits"\n'
        f'data = "d"\nstate = "s"\nprofile = "p"\nmicro_batch = {HUGE}\n'
    )
    with pytest.raises(SettingsError, match="key micro_batch: it does not fit"):
        load_settings(path, DeviceSettings)


@pytest.mark.parametrize(
    "arguments",
    [
        ["enroll", "RUN", "--bulk", HUGE],
        ["enroll", "RUN", "--bulk", "5", "--hours", "inf"],
        ["enroll", "RUN", "--bulk", "5", "--hours", "nan"],
        ["enroll", "RUN", "--bulk", "5", "--hours", "1e300"],
        ["logs", "RUN", "-n", HUGE],
        ["rounds", "RUN", HUGE],
        ["stop", "RUN", "--wait-s", "inf"],
        ["init", "NEW", "--task", "digits", "--evaluation", "e", "--rounds", HUGE],
        ["init", "NEW", "--task", "digits", "--evaluation", "e", "--density", "nan"],
        ["init", "NEW", "--task", "digits", "--evaluation", "e", "--round-budget-s",
         "inf"],
        ["plan", "--task", "digits", "--examples", HUGE],
    ],
    ids=" ".join,
)  # fmt: skip
def test_an_option_with_such_a_number_is_an_error_in_words(
    tmp_path: Path, arguments: list[str]
) -> None:
    (tmp_path / "RUN").mkdir()
    (tmp_path / "RUN" / "run.toml").write_text(RUN + "rounds = 1\n")
    done = subprocess.run(
        [sys.executable, "-m", "coordinator.cli", *arguments],
        cwd=tmp_path, capture_output=True, text=True, check=False,
        timeout=patience(120),
    )  # fmt: skip
    assert done.returncode in (Exit.USAGE, Exit.SETTINGS, Exit.STATE, Exit.SPARSITY)
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "NEW" / "run.toml").exists()


@given(st.integers() | st.integers(-(2**64), 2**64))
def test_a_whole_number_is_one_if_it_fits_into_64_bits(value: int) -> None:
    assert (no_number(value) == "") is (-(2**63) <= value < 2**63)


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_any_bytes_are_settings_or_an_error_in_words(content: bytes) -> None:
    path = Path("/dev/shm") if Path("/dev/shm").is_dir() else Path("/tmp")  # noqa: S108
    file = path / "flash-edge-any-bytes.toml"
    file.write_bytes(content)
    with contextlib.suppress(EdgeError):
        load_toml(file)
    file.unlink()


def test_nesting_without_end_is_an_error_in_words(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text(f"a = {'[' * 50_000}")
    with pytest.raises(SettingsError, match="is not readable TOML"):
        load_toml(path)
