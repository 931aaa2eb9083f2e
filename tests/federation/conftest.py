"""Real processes over a real broker, started as a person starts them."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest
from guarded_site import OTHERS, Site, over
from patience import waited
from ports import free_port
from warm import Forked, Zygote

from coordinator.views.terminal.status import summary
from edge_sdk.datasets.prepare import prepare_folders
from edge_sdk.errors import StateError

DEVICES = ("pi-1", "pi-2", "orin-1")
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
            waited(partial(over, process), 15)
            process.kill()
            process.wait()


@pytest.fixture(scope="session")
def foreign_zygote() -> Iterator[Zygote]:
    """An interpreter with other projects' modules, for all tests."""
    with closing(Zygote(*OTHERS)) as made:
        yield made


@pytest.fixture
def site(tmp_path: Path, foreign_zygote: Zygote) -> Iterator[Site]:
    made = Site(tmp_path, foreign_zygote)
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
