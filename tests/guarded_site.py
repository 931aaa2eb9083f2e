"""A guarded run and its devices as processes, each in a folder of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import psutil
import pytest
from patience import waited
from warm import Forked, Zygote

from coordinator.views.terminal.status import summary
from edge_sdk.access import tls_of
from edge_sdk.datasets.prepare import prepare_folders
from edge_sdk.device.doctor import DoctorTarget, link, render
from edge_sdk.errors import StateError
from edge_sdk.settings import DeviceSettings, load_settings

__all__ = ["OTHERS", "Site", "over"]

ENROLLED = ("pi-1", "pi-2")
WAIT_S = 120.0
# Of the 2.5 s of processor time that a start of a coordinator takes; none has a thread.
OTHERS = ("torch", "numpy", "typer", "msgspec", "paho.mqtt.client", "cryptography.x509")


def over(process: subprocess.Popen[bytes] | Forked) -> bool:
    """Return whether a process has ended."""
    return process.poll() is not None


class Site:
    """A guarded run and its devices, each in a folder, started as processes.

    They are forks of an interpreter that has imported torch and nothing of ours, so
    that what a command line imports is tested.

    Attributes:
        forks: Whether what is started to stay is a fork, too; its command line, as
            `ps` has it, is the interpreter's.
    """

    def __init__(self, folder: Path, zygote: Zygote) -> None:
        self.folder, self.run = folder, folder / "run"
        self.zygote, self.forks = zygote, True
        self.processes: dict[str, subprocess.Popen[bytes] | Forked] = {}
        self.data = prepare_folders(
            "digits", folder / "cache", folder / "data", ENROLLED, alpha=1.0, seed=1
        )

    def command(
        self, module: str, *arguments: object
    ) -> subprocess.CompletedProcess[str]:
        line = tuple(map(str, arguments))
        with tempfile.TemporaryDirectory() as made:
            out, errors = Path(made) / "out", Path(made) / "errors"
            process = Forked(
                *(self.zygote, module, line),
                cwd=self.folder,
                log=out,
                errors=errors,
                env=os.environ,
            )
            if not waited(partial(over, process), WAIT_S):
                process.kill()
                pytest.fail(f"{module} {line} does not end")
            said = out.read_text(), errors.read_text()
            return subprocess.CompletedProcess([module, *line], process.wait(), *said)

    def coordinator(self, *arguments: object) -> str:
        done = self.command("coordinator.cli", *arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def device(self, *arguments: object) -> subprocess.CompletedProcess[str]:
        return self.command("edge_sdk.cli", *arguments)

    def tokens(self, *names: str) -> dict[str, str]:
        said = self.coordinator("enroll", self.run, "--new", *names)
        return dict(line.split() for line in said.splitlines())

    def admit(self, *names: str) -> None:
        """Starts the coordinator and lets devices in, each into its own folder."""
        tokens = self.tokens(*names)  # first: a run that knows of none is plain
        self.given = tokens
        self.start_coordinator()
        self.wait((self.run / "broker.url").exists, "the broker")
        for name, token in tokens.items():
            done = self.device(
                "enroll", token, "--folder", name, "--data", self.data[name]
            )
            assert done.returncode == 0, done.stderr

    def start(self, name: str, module: str, *arguments: object) -> None:
        line, path = tuple(map(str, arguments)), self.folder / f"{name}.log"
        env = {**os.environ, "OMP_NUM_THREADS": "1"}
        if self.forks:
            self.processes[name] = Forked(
                *(self.zygote, module, line), cwd=self.folder, log=path, env=env
            )
            return
        with path.open("ab") as log:
            self.processes[name] = subprocess.Popen(
                [sys.executable, "-m", module, *line],
                env=env,
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
        patient = DoctorTarget(
            broker_url=own.broker, tls=tls_of(own), identity=own.identity
        )
        return render([link.identity(patient), link.tls(patient)])

    def log(self, name: str) -> str:
        path = self.folder / f"{name}.log"
        return path.read_text() if path.exists() else ""

    def wait(self, until: Callable[[], bool], what: str) -> None:
        if waited(until, WAIT_S, look_s=0.05):
            return
        logs = "\n".join(f"--- {n}\n{self.log(n)[-3000:]}" for n in self.processes)
        broker = self.run / "broker" / "mosquitto.log"
        said = broker.read_text()[-2000:] if broker.exists() else ""
        pytest.fail(f"waited in vain for {what}\n{logs}\n{said}")

    def rounds_done(self) -> int:
        try:
            return int(summary(self.run)["rounds_done"])
        except StateError:
            return 0

    def more_rounds(self, count: int, what: str) -> None:
        """Waits for so many rounds from now on."""
        done = self.rounds_done()
        self.wait(lambda: self.rounds_done() >= done + count, what)

    def ended(self, name: str) -> bool:
        return self.processes[name].poll() is not None

    def kill_broker(self) -> None:
        """SIGKILL to the broker that the coordinator has started; it comes back."""
        coordinator = psutil.Process(self.processes["coordinator"].pid)
        for child in coordinator.children(recursive=True):
            if child.name() == "mosquitto":
                child.kill()

    def close(self) -> None:
        for process in self.processes.values():
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        for process in self.processes.values():
            waited(partial(over, process), 15)
            process.kill()
            process.wait()
