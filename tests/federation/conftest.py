"""Real processes over a real broker, started as a person starts them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from coordinator.status import summary
from edge_sdk.errors import StateError
from edge_sdk.models.prepare_data import prepare_folders

DEVICES = ("pi-1", "pi-2", "orin-1")
WAIT_S = 120.0


class Federation:
    """One run of three devices in a folder; every process can be killed."""

    def __init__(self, folder: Path, port: int, rounds: int, broker: str = "") -> None:
        self.run, self.folder, self.port = folder / "run", folder, port
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
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
        with (self.folder / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                [sys.executable, "-m", module, *arguments],
                env={**os.environ, "OMP_NUM_THREADS": "1"},
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
        give_up = time.monotonic() + WAIT_S
        while not until():
            if time.monotonic() > give_up:
                pytest.fail(f"waited {WAIT_S:.0f} s for {what}\n{self.logs()}")
            time.sleep(0.05)

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
            give_up = time.monotonic() + 15
            while process.poll() is None and time.monotonic() < give_up:
                time.sleep(0.05)
            process.kill()
            process.wait()


@pytest.fixture
def federation(tmp_path: Path) -> Iterator[Callable[..., Federation]]:
    """Makes federations; whatever they started is stopped at the end."""
    import socket

    made: list[Federation] = []

    def make(rounds: int = 3, broker: str = "") -> Federation:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        made.append(Federation(tmp_path, port, rounds, broker))
        return made[-1]

    yield make
    for one in made:
        one.close()
