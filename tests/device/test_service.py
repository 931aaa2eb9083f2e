from __future__ import annotations

import configparser
import dataclasses
import os
import shutil
from pathlib import Path

import pytest

from edge_sdk.device import service
from edge_sdk.device.service import (
    Service,
    check_unit,
    install_service,
    this_service,
    unit_text,
)
from edge_sdk.errors import CheckpointError, IdentityError, SettingsError
from edge_sdk.terminal import Exit, exit_of


@pytest.fixture
def mine(tmp_path: Path) -> Service:
    program = tmp_path / "bin/flash-edge"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    for folder in ("state", "data"):
        (tmp_path / folder).mkdir()
    return Service(
        settings=tmp_path / "device.toml",
        state=tmp_path / "state",
        data=tmp_path / "data",
        program=program,
        user="root",
        ram_mib=480,
        cpu_share=0.5,
        cores=4,
    )


def parsed(text: str) -> configparser.ConfigParser:
    unit = configparser.ConfigParser(interpolation=None, strict=True)
    unit.optionxform = str  # type: ignore[assignment, method-assign]
    unit.read_string(text)
    return unit


def test_a_unit_runs_the_agent_within_what_its_owner_lends(mine: Service) -> None:
    unit = parsed(unit_text(mine))["Service"]
    assert unit["ExecStart"] == f"{mine.program} run {mine.settings}"
    assert (unit["MemoryMax"], unit["CPUQuota"], unit["Nice"]) == ("608M", "200%", "10")
    assert (unit["User"], unit["Restart"]) == ("root", "always")


def test_an_end_that_would_only_come_again_is_not_started_again(mine: Service) -> None:
    unit = parsed(unit_text(mine))["Service"]
    kept = {Exit(int(code)) for code in unit["RestartPreventExitStatus"].split()}
    revoked, bad_settings = IdentityError("revoked"), SettingsError("no such key")
    assert {exit_of(revoked), exit_of(bad_settings), Exit.PROTOCOL} <= kept
    # A full disk, data on a disk that is mounted late, a broker that is down: all pass.
    passing = {Exit.STATE, Exit.CHECKPOINT, Exit.DATA, Exit.BROKER, Exit.BUG}
    assert not kept & {Exit.DONE, *passing}


def test_a_unit_may_write_its_state_and_nothing_else(mine: Service) -> None:
    unit = parsed(unit_text(mine))["Service"]
    assert unit["ReadWritePaths"] == str(mine.state)
    for key, value in {
        "ProtectSystem": "strict",
        "ProtectHome": "read-only",
        "NoNewPrivileges": "yes",
        "CapabilityBoundingSet": "",
        "PrivateDevices": "yes",
        "RestrictAddressFamilies": "AF_INET AF_INET6 AF_UNIX",
    }.items():
        assert unit[key] == value
    on_jetson = dataclasses.replace(mine, gpu=True)
    assert parsed(unit_text(on_jetson))["Service"]["PrivateDevices"] == "no"


def test_without_caps_there_are_no_walls_of_that_kind(mine: Service) -> None:
    free = dataclasses.replace(mine, ram_mib=None, cpu_share=1.0)
    unit = parsed(unit_text(free))["Service"]
    assert "MemoryMax" not in unit
    assert "CPUQuota" not in unit


@pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd is not installed here"
)
def test_systemd_itself_accepts_the_unit_and_refuses_a_broken_one(
    mine: Service,
) -> None:
    assert check_unit(unit_text(mine)) == ""
    wrong = unit_text(mine).replace("Restart=always", "Restart=sometimes")
    assert "restart specifier" in check_unit(wrong)


def test_a_unit_is_written_whole_and_readable(mine: Service, tmp_path: Path) -> None:
    path, then = install_service(mine, folder=tmp_path / "units")
    assert path.read_text() == unit_text(mine)
    assert path.stat().st_mode & 0o777 == 0o644
    assert "enable --now flash-edge" in then
    with pytest.raises(CheckpointError):
        install_service(mine, folder=Path("/proc/nowhere"))


def test_a_unit_that_systemd_refuses_is_not_written(
    mine: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "check_unit", lambda *_, **__: "line 3: unknown")
    with pytest.raises(SettingsError, match="line 3"):
        install_service(mine, folder=tmp_path / "units")
    assert not (tmp_path / "units").exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"state": Path("relative")}, "state"),
        ({"data": Path("/a\nExecStart=/bin/sh")}, "data"),
        ({"settings": Path("/a$b")}, "settings"),
        ({"user": "root\n"}, "user"),
        ({"user": "Bob Smith"}, "user"),
        ({"cpu_share": 0.0}, "cpu_share"),
    ],
)
def test_what_could_break_out_of_a_unit_is_refused(
    mine: Service, change: dict[str, object], said: str
) -> None:
    with pytest.raises(SettingsError, match=said):
        unit_text(dataclasses.replace(mine, **change))  # type: ignore[arg-type]


def test_the_program_that_runs_now_is_the_one_installed(tmp_path: Path) -> None:
    found = this_service(tmp_path / "a.toml", tmp_path, tmp_path, ram_mib=300)
    assert found.program.name == "flash-edge"
    assert found.ram_mib == 300
    assert found.user


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="changes the user")
def test_a_user_without_a_name_is_said_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a container that runs as a bare number."""
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME", "SUDO_USER"):
        monkeypatch.delenv(name, raising=False)
    os.setresuid(54321, 0, 0)
    try:
        with pytest.raises(SettingsError, match="number 54321 has no name") as caught:
            this_service(tmp_path / "a.toml", tmp_path, tmp_path)
    finally:
        os.setresuid(0, 0, 0)
    assert "sudo" in caught.value.help


def test_a_device_that_is_enrolled_may_renew_its_keys(tmp_path: Path) -> None:
    found = this_service(tmp_path / "a.toml", tmp_path, tmp_path, tmp_path / "identity")
    assert f"ReadWritePaths={tmp_path} {tmp_path / 'identity'}" in unit_text(found)
