"""A federation of real processes that can be hurt: broker, coordinator, devices."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from chaos.brokers import Broker
from chaos.history import History, check, counts_of, rows_of
from chaos.proxy import Gate
from limiting import LimitingBroker
from patience import patience
from warm import Zygote

from coordinator.operations.extend import extend_run
from coordinator.settings import load_run
from edge_sdk.checkpoint import replace_file
from edge_sdk.datasets.prepare import prepare_folders
from edge_sdk.storage.journal import JournalRecord
from edge_sdk.transport.limits import BrokerLimits
from edge_sdk.wire.codec import unpack

__all__ = ["COORDINATOR", "Archive", "Fleet"]

COORDINATOR = "coordinator"
LOOK_S = 0.02
MOST_STARTS = 60


class Archive:
    """Keeps every blob and checkpoint: the coordinator deletes those of old rounds.

    It reads the files by itself, with nothing of the product's.
    """

    def __init__(self, run: Path) -> None:
        self.run = run
        self._stats: dict[Path, tuple[int, int, int]] = {}
        self._blobs: dict[str, bytes] = {}  # by file name: updates of a round, sums
        self.checkpoints: dict[str, tuple[bytes, ...]] = {}

    def look(self) -> None:
        """Takes in what is new.

        Files are replaced whole, so a read is a whole one; those of updates grow, and a
        read has whatever was committed before.
        """
        for path, content in self._new("blobs"):
            self._blobs[path.name] = content
        for path, content in self._new("checkpoints"):
            known = self.checkpoints.get(path.name, ())
            if content not in known:
                self.checkpoints[path.name] = (*known, content)

    def updates(self, rows: Iterable[Mapping[str, Any]]) -> dict[str, bytes]:
        """The bytes of committed updates, by the digest that their rows name."""
        found = {}
        for row in rows:
            whole = self._blobs.get(f"round-{row['round']:05d}.updates")
            if whole is not None:
                found[row["blob"]] = whole[row["place"] :][: row["size"]]
        return found

    def _new(self, name: str) -> list[tuple[Path, bytes]]:
        found = []
        with contextlib.suppress(FileNotFoundError):
            for entry in os.scandir(self.run / name):
                if entry.name.startswith("."):
                    continue
                with contextlib.suppress(FileNotFoundError):
                    path, stat = Path(entry.path), entry.stat()
                    now = (stat.st_ino, stat.st_mtime_ns, stat.st_size)
                    if self._stats.get(path) != now:
                        found.append((path, path.read_bytes()))
                        self._stats[path] = now
        return found


class Fleet:
    """One run: every process can be killed, stopped, cut off, and comes back.

    Args:
        folder: Where everything lies; logs too.
        broker: A kind of `chaos.brokers`.
        zygote: Starts the processes.
        devices: How many.
        rounds: Rounds after the warm-up.
        algorithm: Of the run; empty for the one that a run has.
        settings: More keys of run.toml, at its top, and more tables of it.
        small_disks: Put the coordinator's and each device's state on a small disk of
            its own, which can be filled; needs root.
        options: Options of `chaos.child.prepare`, for all processes.
        limits: Of a known broker, enforced on what each process sends; None for none.

    Attributes:
        limiting: What enforces them, by process. It stands before the faults: what a
            bad link holds back and lets go at once was not sent at once.
    """

    def __init__(
        self,
        folder: Path,
        broker: str,
        zygote: Zygote,
        *,
        devices: int = 3,
        rounds: int = 10,
        algorithm: str = "",
        settings: tuple[str, str] = ("", ""),
        small_disks: bool = False,
        options: Mapping[str, Any] | None = None,
        limits: BrokerLimits | None = None,
    ) -> None:
        self.folder, self.zygote, self.rounds = folder, zygote, rounds
        self.devices = tuple(f"dev-{i}" for i in range(1, devices + 1))
        self.names = (COORDINATOR, *self.devices)
        self.options = dict(options or {})
        self.once: dict[str, dict[str, Any]] = {}  # options of the next start only
        self.run = folder / "run"
        folder.mkdir(parents=True, exist_ok=True)
        self.broker = Broker(broker, folder)
        self.gates = {name: Gate(self.broker.port) for name in self.names}
        self.limiting = {
            name: LimitingBroker(gate.port, limits)
            for name, gate in self.gates.items()
            if limits is not None
        }
        # A service manager waits ten seconds; less than this breaks a broker's limit.
        self._again_s = 0.0 if limits is None else limits.connect_gap_s
        self._pids: dict[str, int] = {}
        self._codes: dict[str, int] = {}
        self._keep_up: dict[str, float] = {}  # name -> when to start it (again)
        self._broker_at: float | None = None
        self._disks: list[Path] = []
        self.starts = dict.fromkeys(self.names, 0)
        self.violations: list[str] = []
        for name in self.names if small_disks else ():
            self._mount(self.state(name), 24 if name == COORDINATOR else 2)
        self._write_settings(rounds, algorithm, settings)
        self.archive = Archive(self.run)

    def state(self, name: str) -> Path:
        """Where a process keeps what must last."""
        return self.run if name == COORDINATOR else self.folder / f"state-{name}"

    # -- life and death ----------------------------------------------------------------

    def start(self) -> None:
        """Starts the broker and every process, and keeps them up from now on."""
        self.broker.start()
        self.broker.wait()
        for name in self.names:
            self.keep_up(name)
        self.look()

    def keep_up(self, name: str, after_s: float = 0.0) -> None:
        """Starts a process when its time has come, and again whenever it fails."""
        self._keep_up[name] = time.monotonic() + after_s

    def kill(self, name: str, *, again_after_s: float | None = 0.0) -> None:
        """SIGKILL; it comes back after a while, or stays away."""
        self._keep_up.pop(name, None)
        self.signal(name, signal.SIGKILL)
        if name in self._pids:
            while self.running(name):
                time.sleep(0.002)
        if again_after_s is not None:
            self.keep_up(name, max(again_after_s, self._again_s))

    def signal(self, name: str, number: int) -> None:
        """Sends a signal."""
        if name in self._pids and self.running(name):
            os.kill(self._pids[name], number)

    def copy_run(self) -> int:
        """Lets another coordinator run on a copy of the run's folder from now on.

        The present one has to be stopped (SIGSTOP), so that the copy is a whole one. It
        is not kept up any more; its process id is returned.
        """
        zombie = self._pids.pop(COORDINATOR)
        log = self.folder / f"{COORDINATOR}.log"
        log.rename(self.folder / "zombie.log")  # it goes on writing there
        copy = self.run.with_name("copy")
        shutil.copytree(self.run, copy, ignore=shutil.ignore_patterns("lock", "*-shm"))
        self.run = self.archive.run = copy
        self.keep_up(COORDINATOR)
        return zombie

    def extend(self, rounds: int) -> None:
        """`flash-coordinator extend`, before the warm-up can end."""
        go_on = Path(self.options["warm_up"])
        self.wait(lambda: self.round_now() >= 0, "the warm-up")
        extend_run(self.run, rounds)
        go_on.touch()

    def kill_broker(self, *, again_after_s: float = 0.2) -> None:
        """SIGKILL: what it had retained and queued is lost."""
        self.broker.kill()
        self._broker_at = time.monotonic() + again_after_s

    def running(self, name: str) -> bool:
        """Whether it runs; also when it is stopped."""
        if name not in self._pids:
            return False
        code = self.zygote.poll(self._pids[name])
        if code is None:
            return True
        self._codes[name] = code
        del self._pids[name]
        return False

    def exit_code(self, name: str) -> int | None:
        """How it ended last."""
        return None if self.running(name) else self._codes.get(name)

    def look(self) -> None:
        """One look at everything: archive, and start what has to run again."""
        self.archive.look()
        now = time.monotonic()
        if self._broker_at is not None and now >= self._broker_at:
            self._broker_at = None
            self.broker.start()
        elif self._broker_at is None and not self.broker.alive():
            self.broker.start()  # as a service manager would
        for name in self.names:
            at = self._keep_up.get(name)
            if at is None or now < at or self.running(name):
                continue
            if self._codes.pop(name, None) == 0:
                self._keep_up.pop(name)  # it is done
                self._codes[name] = 0
                continue
            if self.starts[name] > MOST_STARTS:
                raise TimeoutError(f"{name} cannot start:\n{self.said(name)[-2500:]}")
            if name == COORDINATOR:
                self.check_now()
            self._spawn(name)
            # No busy loop of a process that cannot.
            self._keep_up[name] = now + max(0.3, self._again_s)

    def wait(self, until: Callable[[], bool], what: str, seconds: float = 60.0) -> None:
        """Looks until something is so.

        Raises:
            TimeoutError: If it is not in time; the logs are in the message.
        """
        began = time.monotonic()
        while not until():
            took = time.monotonic() - began
            if took > patience(seconds):
                raise TimeoutError(f"waited {took:.0f} s for {what}\n{self.logs()}")
            self.look()
            time.sleep(LOOK_S)

    def wait_end(self, seconds: float = 120.0) -> None:
        """Waits for the run's end; the devices hear of it, or are stopped."""
        self.wait(lambda: self.exit_code(COORDINATOR) == 0, "the end", seconds)
        self._keep_up.pop(COORDINATOR, None)
        with contextlib.suppress(TimeoutError):  # a broker that died has forgotten it
            self.wait(
                lambda: not any(self.running(d) for d in self.devices), "devices", 3
            )
        for name in self.devices:
            self._keep_up.pop(name, None)
            self.signal(name, signal.SIGCONT)
            self.signal(name, signal.SIGTERM)
        began = time.monotonic()
        while any(self.running(d) for d in self.devices):
            if time.monotonic() - began > patience(15):
                for name in self.devices:
                    self.signal(name, signal.SIGKILL)
            time.sleep(LOOK_S)
        self.archive.look()

    def close(self) -> None:
        """Kills what is left."""
        self._keep_up.clear()
        for name in self.names:
            self.kill(name, again_after_s=None)
        self.broker.close()
        for gate in self.gates.values():
            gate.close()
        for limiting in self.limiting.values():
            limiting.close()
        for disk in reversed(self._disks):
            subprocess.run(["umount", "-l", str(disk)], check=False)

    def _spawn(self, name: str) -> None:
        options = {"clock": str(self.folder / f"clock-{name}")} | self.options
        options |= self.once.pop(name, {})
        if name == COORDINATOR:
            module = "coordinator.cli"
            verb = "resume" if self.rows("rounds") else "run"
            arguments = [verb, str(self.run)]
        else:
            module = "edge_sdk.cli"
            arguments = ["run", str(self.folder / f"{name}.toml"), "--until-done"]
        self.starts[name] += 1
        self._pids[name] = self.zygote.spawn(
            module=module,
            arguments=arguments,
            cwd=str(self.state(name)),  # where a service runs, and its disk is
            log=str(self.folder / f"{name}.log"),
            child=options,
        )

    # -- disks and clocks --------------------------------------------------------------

    def fill_disk(self, name: str) -> None:
        """Leaves no byte free where a process keeps its state."""
        path = self.state(name) / "filler"
        with path.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while file.write(b"\0" * 4096):
                pass

    def free_disk(self, name: str) -> None:
        """Takes back what `fill_disk` took."""
        (self.state(name) / "filler").unlink(missing_ok=True)

    def set_clock(self, name: str, off_s: float) -> None:
        """Puts a process's wall clock off, from one call to the next."""
        replace_file(self.folder / f"clock-{name}", f"{off_s}".encode())

    def _mount(self, path: Path, mib: int) -> None:
        path.mkdir(parents=True, exist_ok=True)
        size = f"size={mib}m"
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", size, "chaos", str(path)], check=True
        )
        self._disks.append(path)

    # -- what there is to see ----------------------------------------------------------

    def rows(self, table: str) -> list[dict[str, Any]]:
        """A table of the ledger as it stands; empty before there is one."""
        path = self.run / "ledger.sqlite"
        if not path.exists():
            return []
        with contextlib.suppress(sqlite3.Error):
            base = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
            try:
                return rows_of(base, table)
            finally:
                base.close()
        return []

    def round_now(self) -> int:
        """The number of the newest round with tasks; -1 before the warm-up."""
        rounds = [r["no"] for r in self.rows("rounds") if r["phase"] != "plan"]
        return max(rounds, default=-1)

    def history(self, *, over: bool) -> History:
        """The run as it stands; journals first, so that the ledger is not older."""
        journals = {}
        for name in self.devices:
            with contextlib.suppress(FileNotFoundError):
                path = self.state(name) / "journal.msgpack"
                journals[name] = unpack(path.read_bytes(), JournalRecord)
        path = self.run / "ledger.sqlite"
        with contextlib.closing(
            sqlite3.connect(f"file:{path}?mode=ro", uri=True)
        ) as base:
            base.execute("BEGIN")
            rounds, tasks = rows_of(base, "rounds"), rows_of(base, "tasks")
            updates, counts = rows_of(base, "updates"), counts_of(base)
        self.archive.look()
        return History(
            settings=load_run(self.run / "run.toml"),
            folder=self.run,
            rounds=tuple(sorted(rounds, key=lambda r: int(r["no"]))),
            tasks={t["id"]: t for t in tasks},
            updates={u["task"]: u for u in updates},
            counts=counts,
            blobs=self.archive.updates(updates),
            checkpoints=dict(self.archive.checkpoints),
            journals=journals,
            over=over,
        )

    def check_now(self) -> None:
        """Checks an open history, as a crash has left it; keeps what is wrong."""
        if self.rows("rounds"):
            for one in check(self.history(over=False)):
                self.violations.append(f"while open: {one}")

    def verdict(self) -> list[str]:
        """All violations, the open ones too, each once."""
        found = self.violations + check(self.history(over=True))
        return sorted(set(found))

    def digest(self) -> str:
        """Digest of the last model."""
        last = max(self.archive.checkpoints)
        return hashlib.sha256(self.archive.checkpoints[last][-1]).hexdigest()

    def logs(self) -> str:
        """The end of every log."""
        return "\n".join(
            f"--- {p.name}\n{p.read_text(errors='replace')[-2500:]}"
            for p in sorted(self.folder.glob("*.log"))
        )

    def said(self, name: str) -> str:
        """A process's whole log."""
        path = self.folder / f"{name}.log"
        return path.read_text(errors="replace") if path.exists() else ""

    # -- settings ----------------------------------------------------------------------

    def _url(self, name: str) -> str:
        limiting = self.limiting.get(name)
        if limiting is None:
            return f"mqtt://127.0.0.1:{self.gates[name].port}"
        return f"mqtt://127.0.0.1:{limiting.port}?profile={limiting.limits.name}"

    def _write_settings(
        self, rounds: int, algorithm: str, more: tuple[str, str]
    ) -> None:
        data = _data(self.folder, self.devices)
        self.run.mkdir(parents=True, exist_ok=True)
        (self.run / "run.toml").write_text(
            'federation = "chaos"\ntask = "digits"\n'
            + (
                ""
                if "evaluation" in more[0]
                else f'evaluation = "{data["evaluation"]}"\n'
            )
            + f"densities = [0.1, 0.4]\nrounds = {rounds}\n"
            f"wait_for = {len(self.devices)}\n"
            f'broker = "{self._url(COORDINATOR)}"\n'
            + (f"algorithm = '{algorithm}'\n" if algorithm else "")
            + more[0]
            + "[training]\nmax_steps = 4\nrate = 0.2\nrate_end = 0.1\n"
            "[warm_up]\ndevices = 2\nepochs = 2\nmax_steps = 4\n" + more[1]
        )
        for number, name in enumerate(self.devices):
            self.state(name).mkdir(exist_ok=True)
            profile = "jetson_orin_nano" if number == 0 else "raspberry_pi_4b_4gb"
            (self.folder / f"{name}.toml").write_text(
                f'name = "{name}"\nfederation = "chaos"\n'
                f'broker = "{self._url(name)}"\n'
                f'task = "digits"\ndata = "{data[name]}"\n'
                f'state = "{self.state(name)}"\nprofile = "{profile}"\n'
                f'engine = "masked"\nthreads = 1\n'
            )


def _data(folder: Path, devices: Sequence[str]) -> dict[str, Path]:
    return prepare_folders(
        "digits", folder / "cache", folder / "data", devices, alpha=1.0, seed=1
    )
