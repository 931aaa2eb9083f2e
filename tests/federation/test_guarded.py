"""The whole guarded path, as a person walks it: real commands and processes."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from coordinator.status import summary
from edge_sdk.access import tls_of
from edge_sdk.doctor import Patient, link, render
from edge_sdk.errors import StateError
from edge_sdk.models.prepare_data import prepare_folders
from edge_sdk.settings import DeviceSettings, load_settings
from edge_sdk.terminal import Exit

pytestmark = pytest.mark.broker
WAIT_S = 90.0
DEVICES = ("pi-1", "pi-2")


class Site:
    """One run and its devices, each in a folder, started as processes."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.run = folder, folder / "run"
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.data = prepare_folders(
            "digits", folder / "cache", folder / "data", DEVICES, alpha=1.0, seed=1
        )

    def command(
        self, module: str, *arguments: object
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", module, *map(str, arguments)],
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def coordinator(self, *arguments: object) -> str:
        done = self.command("coordinator.cli", *arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def device(self, *arguments: object) -> subprocess.CompletedProcess[str]:
        return self.command("edge_sdk.cli", *arguments)

    def tokens(self, *names: str) -> dict[str, str]:
        said = self.coordinator("enroll", self.run, "--new", *names)
        return dict(line.split() for line in said.splitlines())

    def start(self, name: str, module: str, *arguments: object) -> None:
        with (self.folder / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                [sys.executable, "-m", module, *map(str, arguments)],
                env={**os.environ, "OMP_NUM_THREADS": "1"},
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def start_coordinator(self, verb: str = "run") -> None:
        self.start("coordinator", "coordinator.cli", verb, self.run)

    def start_device(self, name: str) -> None:
        self.start(name, "edge_sdk.cli", "run", self.settings(name), "--until-done")

    def settings(self, name: str) -> Path:
        return self.folder / name / "device.toml"

    def doctor(self, name: str) -> str:
        """What the doctor says of a device's identity and link."""
        own = load_settings(self.settings(name), DeviceSettings)
        patient = Patient(broker_url=own.broker, tls=tls_of(own), identity=own.identity)
        return render([link.identity(patient), link.tls(patient)])

    def log(self, name: str) -> str:
        path = self.folder / f"{name}.log"
        return path.read_text() if path.exists() else ""

    def wait(self, until: Callable[[], bool], what: str) -> None:
        give_up = time.monotonic() + WAIT_S
        while not until():
            if time.monotonic() > give_up:
                logs = "\n".join(
                    f"--- {n}\n{self.log(n)[-3000:]}" for n in self.processes
                )
                broker = self.run / "broker" / "mosquitto.log"
                pytest.fail(f"waited for {what}\n{logs}\n{broker.read_text()[-2000:]}")
            time.sleep(0.05)

    def rounds_done(self) -> int:
        try:
            return int(summary(self.run)["rounds_done"])
        except StateError:
            return 0

    def ended(self, name: str) -> bool:
        return self.processes[name].poll() is not None

    def close(self) -> None:
        for process in self.processes.values():
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        give_up = time.monotonic() + 15
        for process in self.processes.values():
            while process.poll() is None and time.monotonic() < give_up:
                time.sleep(0.05)
            process.kill()
            process.wait()


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path)
    made.coordinator(
        *("init", made.run, "--task", "digits", "--federation", "site"),
        *("--evaluation", made.data["evaluation"], "--density", "0.4"),
        *("--rounds", "5000", "--wait-for", "2"),
    )
    text = (made.run / "run.toml").read_text()
    text += "max_steps = 5\n[warm_up]\ndevices = 2\nepochs = 1\nmax_steps = 5\n"
    (made.run / "run.toml").write_text(text)
    yield made
    made.close()


def test_from_init_to_a_revoked_device_everything_is_certified_and_signed(
    site: Site,
) -> None:
    tokens = site.tokens(*DEVICES)
    site.start_coordinator()
    site.wait((site.run / "broker.url").exists, "the broker")
    for name in DEVICES:
        done = site.device(
            "enroll", tokens[name], "--folder", name, "--data", site.data[name]
        )
        assert done.returncode == 0, done.stderr
        key = site.folder / name / "identity" / "device.pem"
        assert stat.S_IMODE(key.stat().st_mode) == 0o600
    again = site.device("enroll", tokens["pi-1"], "--folder", "thief")
    assert again.returncode == Exit.IDENTITY
    assert "was used already, to enrol pi-1" in again.stderr
    assert not (site.folder / "thief" / "device.toml").exists()

    healthy = site.doctor("pi-1")
    assert "PASS     identity: pi-1 in site" in healthy
    assert "PASS     TLS: handshake done" in healthy

    for name in DEVICES:
        site.start_device(name)
    site.wait(lambda: site.rounds_done() >= 2, "two rounds")

    # The coordinator's key is replaced: both devices follow, without a restart.
    assert "key 1 signs" in site.coordinator("rotate", site.run)
    site.wait(
        lambda: all("signs with key 1 from now on" in site.log(n) for n in DEVICES),
        "the devices to follow the key",
    )
    now = site.rounds_done()
    site.wait(lambda: site.rounds_done() >= now + 2, "rounds under the new key")

    # A device is revoked: it is told why, and the other goes on.
    site.coordinator("revoke", site.run, "pi-2", "--why", "it was stolen")
    site.wait(lambda: site.ended("pi-2"), "the end of the revoked device")
    assert site.processes["pi-2"].returncode == Exit.IDENTITY
    assert "pi-2 was revoked: it was stolen" in site.log("pi-2")
    now = site.rounds_done()
    site.wait(lambda: site.rounds_done() >= now + 2, "rounds without it")
    assert not site.ended("pi-1")
    assert "this device was revoked" in site.doctor("pi-2")
    site.start_device("pi-2")  # it is not even let in, and says why
    refused = "refuses this certificate: it was revoked"
    site.wait(lambda: refused in site.log("pi-2"), "the broker's refusal")

    # Its name can be let in again, with other keys.
    token = site.tokens("pi-2")["pi-2"]
    done = site.device("enroll", token, "--folder", "new", "--data", site.data["pi-2"])
    assert done.returncode == 0, done.stderr
    old, new = (
        (site.folder / f / "identity" / "device.pem").read_bytes()
        for f in ("pi-2", "new")
    )
    assert old != new
    assert "Traceback" not in site.log("coordinator") + site.log("pi-1")
