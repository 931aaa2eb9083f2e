"""Real processes over a real broker, started as a person starts them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import psutil
import pytest
from patience import patience, waited
from ports import free_port
from warm import Forked, Zygote

from coordinator.views.terminal.status import summary
from edge_sdk.access import tls_of
from edge_sdk.datasets.prepare import prepare_folders
from edge_sdk.device.doctor import DoctorTarget, link, render
from edge_sdk.errors import StateError
from edge_sdk.settings import DeviceSettings, load_settings

DEVICES = ("pi-1", "pi-2", "orin-1")
ENROLLED = ("pi-1", "pi-2")
WAIT_S = 120.0


class Federation:
    """One run of three devices in a folder; every process can be killed.

    They are forks of the zygote: a test that starts people's own command lines, or one
    of what they import, names their interpreter in `pythons`.
    """

    def __init__(
        self, folder: Path, port: int, rounds: int, broker: str, zygote: Zygote
    ) -> None:
        self.run, self.folder, self.port = folder / "run", folder, port
        self.zygote = zygote
        self.processes: dict[str, subprocess.Popen[bytes] | Forked] = {}
        self.pythons: dict[str, str] = {}
        data = prepare_folders(
            "digits", folder / "cache", folder / "data", DEVICES, alpha=1.0, seed=1
        )
        self.run.mkdir()
        (self.run / "run.toml").write_text(
            f'federation = "test"\ntask = "digits"\n'
            f'evaluation = "{data["evaluation"]}"\n'
            f"densities = [0.1, 0.4]\nrounds = {rounds}\nwait_for = 3\n"
            + (f'broker = "{broker}"\n' if broker else f"port = {port}\n")
            + "[training]\nmax_steps = 25\nrate = 0.2\nrate_end = 0.1\n"
            "[warm_up]\ndevices = 2\nepochs = 3\nmax_steps = 15\n"
            '[codec]\nup = "fp32"\ndown = "fp32"\nzstd = false\n'
        )
        (folder / "pi.toml").write_text(
            'like = "raspberry_pi_4b_4gb"\n[caps]\nbytes_per_round = 20000\n'
        )
        own = f"mqtt://127.0.0.1:{port}"
        for name in DEVICES:
            profile = "jetson_orin_nano" if name == "orin-1" else "pi.toml"
            (folder / f"{name}.toml").write_text(
                f'name = "{name}"\nfederation = "test"\n'
                f'broker = "{broker or own}"\ntask = "digits"\n'
                f'data = "{data[name]}"\nstate = "state-{name}"\n'
                f'profile = "{profile}"\nengine = "masked"\nthreads = 1\n'
            )

    def start(self, name: str, *arguments: str) -> None:
        """Starts `coordinator` or a device; its output goes to a log."""
        module = "coordinator.cli" if name == "coordinator" else "edge_sdk.cli"
        path, env = self.folder / f"{name}.log", {**os.environ, "OMP_NUM_THREADS": "1"}
        if name not in self.pythons:
            self.processes[name] = Forked(
                *(self.zygote, module, arguments), cwd=self.folder, log=path, env=env
            )
            return
        with path.open("ab") as log:
            self.processes[name] = subprocess.Popen(
                [self.pythons[name], "-m", module, *arguments],
                env=env,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def start_devices(self) -> None:
        for name in DEVICES:
            self.start_device(name)

    def start_device(self, name: str) -> None:
        self.start(name, "run", str(self.folder / f"{name}.toml"), "--until-done")

    def kill(self, name: str) -> None:
        self.processes[name].send_signal(signal.SIGKILL)
        self.processes[name].wait()

    def wait(self, until: Callable[[], bool], what: str) -> None:
        if not waited(until, WAIT_S, look_s=0.05):
            pytest.fail(f"waited in vain for {what}\n{self.logs()}")

    def wait_end(self, name: str = "coordinator") -> int:
        process = self.processes[name]
        self.wait(lambda: process.poll() is not None, f"the end of {name}")
        return int(process.returncode)

    def summary(self) -> dict[str, object]:
        return summary(self.run)

    def rounds_done(self) -> int:
        try:
            return int(str(summary(self.run)["rounds_done"]))
        except StateError:
            return 0

    def logs(self) -> str:
        return "\n".join(
            f"--- {p.name}\n{p.read_text()[-3000:]}" for p in self.folder.glob("*.log")
        )

    def close(self) -> None:
        for process in self.processes.values():
            if process.poll() is None:
                process.terminate()
        for process in self.processes.values():
            waited(partial(_over, process), 15)
            process.kill()
            process.wait()


def _over(process: subprocess.Popen[bytes] | Forked) -> bool:
    return process.poll() is not None


class Site:
    """A guarded run and its devices, each in a folder, started as processes."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.run = folder, folder / "run"
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.data = prepare_folders(
            "digits", folder / "cache", folder / "data", ENROLLED, alpha=1.0, seed=1
        )

    def command(
        self, module: str, *arguments: object
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", module, *map(str, arguments)],
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=patience(120),
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
            waited(partial(_over, process), 15)
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


@pytest.fixture
def federation(tmp_path: Path, zygote: Zygote) -> Iterator[Callable[..., Federation]]:
    """Makes federations; whatever they started is stopped at the end."""
    made: list[Federation] = []

    def make(rounds: int = 3, broker: str = "") -> Federation:
        made.append(Federation(tmp_path, free_port(), rounds, broker, zygote))
        return made[-1]

    yield make
    for one in made:
        one.close()
