from __future__ import annotations

import dataclasses
import datetime as dt
import os
import platform
import ssl
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from patience import patience

from coordinator.broker.start import open_broker
from edge_sdk.device.doctor import (
    Check,
    DoctorTarget,
    board,
    examine,
    link,
    programs,
    render,
)
from edge_sdk.transport.address import Tls

OWN_TASK = """
import dataclasses
import numpy
from edge_sdk.errors import DataError
from edge_sdk.tasks.task import Examples, load_task

def data(folder):
    if not folder.is_dir():
        raise DataError(f"{folder} is empty", remedy="Plug it in.")
    return Examples(numpy.zeros((3, 1, 8, 8), numpy.uint8), numpy.zeros(3, int))

task = dataclasses.replace(load_task("digits"), train_data=data)
"""


@pytest.fixture(scope="module")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Check]:
    checks = examine(DoctorTarget(state=tmp_path_factory.mktemp("state")))
    return {check.name: check for check in checks}


def test_every_promised_thing_is_looked_at(healthy: dict[str, Check]) -> None:
    assert set(healthy) == {
        *("system", "clock", "memory", "disk", "vector units", "torch"),
        *("native kernels", "engine", "profile", "examples", "heat", "broker"),
        *("packets", "memory plan", "identity", "TLS"),
    }


def test_this_machine_trains(healthy: dict[str, Check]) -> None:
    assert healthy["torch"].status == "PASS"
    assert healthy["system"].status == "PASS"


def test_a_problem_always_has_a_fix_and_nothing_else_has(
    healthy: dict[str, Check],
) -> None:
    for check in healthy.values():
        assert bool(check.fix) == (check.status == "problem"), check
        assert check.detail


def test_the_doctor_does_not_import_torch_itself() -> None:
    program = (
        "import sys; from edge_sdk.device.doctor import DoctorTarget, examine; "
        "examine(DoctorTarget()); "
        "sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=patience(120))


def test_missing_kernels_are_said_with_what_to_do_and_what_it_costs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """No compiler, no library: said by name, not trained slowly in silence."""
    foreign = "neon" if platform.machine() == "x86_64" else "v3"
    monkeypatch.setenv("FLASH_EDGE_ISA", foreign)
    found = {check.name: check for check in examine(DoctorTarget())}["native kernels"]
    assert found.status == "problem"
    assert foreign in found.detail
    assert "dense speed" in found.detail
    assert "g++" in found.fix
    assert 'engine = "masked"' in found.fix


@pytest.mark.parametrize(
    ("version", "machine", "trapped"),
    [
        ("2.10.0", "aarch64", True),
        ("2.10.1+cpu", "aarch64", True),
        ("2.10.0", "x86_64", False),
        ("2.9.1", "aarch64", False),
        ("2.8.0", "aarch64", False),
        ("2.1.0", "x86_64", True),
        ("2.5.0a0+nv24.8", "aarch64", False),
        ("odd", "x86_64", True),
    ],
)
def test_the_builds_of_torch_that_trap_are_known(
    version: str, machine: str, trapped: bool
) -> None:
    assert (programs.torch_complaint(version, machine) is not None) == trapped


def test_a_torch_that_dies_of_an_illegal_instruction_is_told_apart(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    program = "import os, signal; os.kill(os.getpid(), signal.SIGILL)"
    monkeypatch.setattr(programs, "_TORCH_TRIAL", program)
    check = programs.torch(DoctorTarget())
    assert check.status == "problem"
    assert "illegal instruction" in check.detail
    assert "torch>=2.7,<2.10" in check.fix


def test_a_clock_in_1970_a_full_disk_and_little_memory_are_problems(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sick = DoctorTarget(root=tmp_path, state=tmp_path, today=dt.date(1970, 1, 1))
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/status").write_text("RssAnon: 90 kB\n")
    (tmp_path / "proc/meminfo").write_text("MemTotal: 400 kB\nMemAvailable: 300 kB")
    (tmp_path / "proc/cpuinfo").write_text("flags : sse4_1\n")
    monkeypatch.setattr(board, "LEAST_DISK_MIB", 1 << 40)
    for look, said in (
        (board.clock, "1970-01-01"),
        (board.ram, "MiB for the agent"),
        (board.disk, "MiB free"),
        (board.simd, "only sse4_1"),
    ):
        check = look(sick)
        assert check.status == "problem", check
        assert said in check.detail
        assert check.fix


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="becomes nobody")
def test_a_state_folder_that_the_agent_cannot_write_is_a_problem(
    tmp_path: Path,
) -> None:
    tmp_path.chmod(0o500)
    os.setresuid(65534, 0, 0)  # `access` asks for the real user
    try:
        check = board.disk(DoctorTarget(state=tmp_path / "state"))
    finally:
        os.setresuid(0, 0, 0)
    assert check.status == "problem"
    assert f"{tmp_path} cannot be written" in check.detail
    assert board.disk(DoctorTarget(state=tmp_path / "state")).status == "PASS"


def test_examples_are_looked_for_where_the_settings_say(tmp_path: Path) -> None:
    """A task beside the settings is found from any folder, as a service starts it."""
    beside = tmp_path / "home"
    beside.mkdir()
    (beside / "own_task_here.py").write_text(OWN_TASK)
    at_home = DoctorTarget(
        task="own_task_here:task", beside=beside, data=tmp_path / "data"
    )
    missing = programs.examples(at_home)
    assert (missing.status, missing.detail) == ("problem", f"{at_home.data} is empty")
    assert missing.fix == "Plug it in."
    at_home.data.mkdir()
    assert programs.examples(at_home).detail == "3 of task own_task_here:task"
    nowhere = programs.examples(dataclasses.replace(at_home, beside=tmp_path))
    assert nowhere.status == "problem"
    assert "own_task_here" in nowhere.detail


def test_a_32_bit_system_is_refused_clearly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "maxsize", 2**31 - 1)
    check = board.word_size(DoctorTarget())
    assert check.status == "problem"
    assert "64-bit" in check.fix


def test_under_voltage_is_a_problem_with_the_right_fix(tmp_path: Path) -> None:
    file = tmp_path / "sys/devices/platform/soc/soc:firmware/get_throttled"
    file.parent.mkdir(parents=True)
    file.write_text("0x50005")
    check = board.thermal(DoctorTarget(root=tmp_path))
    assert check.status == "problem"
    assert "power supply" in check.fix


@pytest.mark.broker
def test_a_broker_that_answers_passes_and_one_that_does_not_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_broker(None, tmp_path) as broker:
        assert link.broker(DoctorTarget(broker_url=broker.url)).status == "PASS"
    check = link.broker(DoctorTarget(broker_url="mqtt://127.0.0.1:9"))
    assert check.status == "problem"
    assert "127.0.0.1:9: Connection refused" in check.detail
    # A refusal is an answer: nobody waits for another, nor for the packets'.
    monkeypatch.setattr(link, "WAIT_S", 3600.0)
    monkeypatch.setattr("edge_sdk.transport.trial.CONNECT_S", 3600.0)
    assert link.broker(DoctorTarget(broker_url="mqtt://127.0.0.1:9")) == check
    tried = link.packets(DoctorTarget(broker_url="mqtt://127.0.0.1:9"))
    assert tried.status == "skipped"
    assert link.broker(DoctorTarget(broker_url="gopher://x")).status == "problem"


# -- TLS, against a real handshake ---


def certificate(folder: Path, *, days: int) -> tuple[Path, Path]:
    cert, key = folder / f"cert-{days}.pem", folder / f"key-{days}.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-nodes", "-batch"),
            *("-pkeyopt", "ec_paramgen_curve:prime256v1", "-days", str(days)),
            *("-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"),
            *("-keyout", str(key), "-out", str(cert)),
        ],
        check=True,
        capture_output=True,
    )
    return cert, key


class Listener:
    """One TLS handshake per connection, and nothing after it."""

    def __init__(self, cert: Path, key: Path) -> None:
        import socket

        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(cert, key)
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        """A thread in accept() would keep a closed socket listening."""
        import socket

        self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()

    def _serve(self) -> None:
        while True:
            try:
                raw, _ = self.socket.accept()
            except OSError:
                return
            try:
                self.context.wrap_socket(raw, server_side=True).close()
            except OSError:
                raw.close()


def test_tls_is_tried_for_real(tmp_path: Path) -> None:
    good, key = certificate(tmp_path, days=90)
    listener = Listener(good, key)
    url = f"mqtts://127.0.0.1:{listener.port}"
    try:
        check = link.tls(DoctorTarget(broker_url=url, tls=Tls(good)))
        assert check.status == "PASS", check
        assert "good for 9" in check.detail or "good for 8" in check.detail
        other, _ = certificate(tmp_path, days=80)
        stranger = link.tls(DoctorTarget(broker_url=url, tls=Tls(other)))
        assert stranger.status == "problem"
        assert "not believed" in stranger.detail
        absent = link.tls(DoctorTarget(broker_url=url, tls=Tls(tmp_path / "none.pem")))
        assert absent.status == "problem"
    finally:
        listener.close()
    gone = link.tls(DoctorTarget(broker_url=url, tls=Tls(good)))
    assert "no encrypted link" in gone.detail


def test_a_certificate_about_to_end_is_a_problem(tmp_path: Path) -> None:
    soon, key = certificate(tmp_path, days=5)
    listener = Listener(soon, key)
    url = f"mqtts://127.0.0.1:{listener.port}"
    try:
        check = link.tls(DoctorTarget(broker_url=url, tls=Tls(soon)))
    finally:
        listener.close()
    assert "ends in" in check.detail


def test_a_report_puts_the_fix_under_its_problem() -> None:
    text = render([Check("a", "PASS", "fine"), Check("b", "problem", "bad", "Mend.")])
    assert text == "PASS     a: fine\nproblem  b: bad\n         fix: Mend."
