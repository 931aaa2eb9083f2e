"""`coordinator.Federation`: a coordinator for real devices, from a notebook."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from numbers import Integral
from pathlib import Path
from typing import Any

from typing_extensions import Self

from coordinator.algorithms.base import Algorithm
from coordinator.identity.broker_access import enroll_port, open_identities
from coordinator.ledger import is_held, read_ledger
from coordinator.operations.federation_run import FederationRun, round_line
from coordinator.operations.run_settings import (
    SETTINGS,
    algorithm_name,
    ascending,
    check_device,
    check_hours,
    evaluation_of,
    keep_evaluation,
    plain_line,
    task_name,
    write_settings,
)
from coordinator.processes.child_log import last_words
from coordinator.processes.children import ChildProcess, stop_all
from coordinator.settings import load_run
from coordinator.views.ledger_view import read_run
from coordinator.views.round_view import RoundView
from coordinator.views.run_view import RunView
from coordinator.views.terminal.status import has_run
from edge_sdk.errors import RunError, SettingsError, StateError
from edge_sdk.private_files import keep_private
from edge_sdk.settings import a_path, as_arguments
from edge_sdk.tasks.task import Task
from edge_sdk.terminal import say

__all__ = ["Federation"]

LOG = "coordinator.out"
TICK_S = 0.2


class Federation:
    """A coordinator as a process of its own, with devices that are elsewhere.

    It runs what ``flash-coordinator run FOLDER`` runs, on the same folder: either
    continues what the other began. As a context manager it starts the coordinator and
    stops it however the block ends; the process also ends with this one.

    Example::

        with coordinator.Federation("my-run", "digits", evaluation="data") as fed:
            print(fed.join("pi-1"))  # to type on the device
            run = fed.wait()

    Args:
        folder: The run's folder. A run that it holds is continued.
        task: A shipped task, ``package.module:object``, or a `Task` that a module
            holds, which devices can import too. None takes the folder's settings.
        evaluation: The coordinator's examples, of any form that `simulate` takes; or
            the folder that the task reads them from (``eval.npz``).
        algorithm: An `Algorithm` that a module holds, its name, or
            ``package.module:object``.
        rounds: Rounds after the warm-up.
        densities: The densities a device may get, each in (0, 1].
        wait_for: Devices to wait for before the first round.
        name: The federation's name.
        address: Where devices reach this machine.
        broker: ``mqtts://host:port`` of yours; empty starts one.
        insecure: Plain MQTT without identities, on this machine only.
        **more: Other keys of ``run.toml``: docs/settings.md.

    Raises:
        SettingsError: Names the argument and what was expected.
        StateError: If the folder holds a run with other settings.
    """

    def __init__(
        self,
        folder: Path | str,
        task: Task | str | None = None,
        *,
        evaluation: Any = None,
        algorithm: Algorithm | str = "flash-edge",
        rounds: int = 20,
        densities: Sequence[float] = (0.05, 0.1, 0.2),
        wait_for: int = 2,
        name: str = "home",
        address: str = "127.0.0.1",
        broker: str = "",
        insecure: bool = False,
        **more: Any,
    ) -> None:
        self.folder = a_path(folder, "folder").resolve()
        self._child: ChildProcess | None = None
        if task is None:
            if not (self.folder / SETTINGS).exists():
                raise SettingsError(
                    f"{self.folder} holds no run, and no task is given",
                    remedy="Give task= and evaluation=.",
                )
            self.settings = load_run(self.folder / SETTINGS)
            return
        reference = task_name(task)
        place, scored = evaluation_of(self.folder, task, evaluation)
        given = {
            "federation": name,
            "task": reference,
            "evaluation": str(place),
            "algorithm": algorithm_name(algorithm),
            "rounds": rounds,
            "densities": ascending(densities),
            "wait_for": wait_for,
            "address": address,
            "broker": broker,
            "insecure": insecure,
            **more,
        }
        with as_arguments("A run"):
            self.settings = write_settings(self.folder, given)
        if scored is not None:
            keep_evaluation(Path(place), scored)

    def __enter__(self) -> Self:
        """Starts the coordinator."""
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stops it, whatever ended the block."""
        self.stop()

    def join(self, device: str, *, hours: float = 24.0) -> str:
        """The line that lets a device in, to be typed there: it holds a one-time token.

        With ``insecure=True`` it writes the device's settings, for this machine.

        Args:
            device: Its name.
            hours: How long an unused token works.

        Raises:
            IdentityError: If the name is taken, or none.
            SettingsError: If `hours` is no time.
            StateError: If there is no broker yet, with ``insecure=True``.
        """
        check_device(device)
        check_hours(hours)
        if self.settings.insecure:
            return plain_line(self.settings, self.broker, device)
        identities = open_identities(self.folder, self.settings)
        port = enroll_port(identities, self.settings)
        token = identities.token(device, self.settings.address, port, hours=hours)
        return f"flash-edge enroll {token} --data data && flash-edge run device.toml"

    @property
    def broker(self) -> str:
        """The broker's URL; empty before `start`."""
        path = self.folder / "broker.url"
        return path.read_text("utf-8").strip() if path.exists() else ""

    @property
    def running(self) -> bool:
        """True while the coordinator runs."""
        return self._child is not None and self._child.alive()

    def start(self, *, timeout_s: float | None = None) -> None:
        """Starts the coordinator, or continues the folder's run.

        Args:
            timeout_s: Seconds to wait until its broker answers; None waits as long as
                the process lives.

        Raises:
            StateError: If a coordinator runs in the folder already.
            RunError: If it ends before that; gives its reason.
        """
        if self.running:
            return
        if is_held(self.folder):
            raise StateError(
                f"a coordinator runs in {self.folder} already",
                remedy=f"Stop it: flash-coordinator stop {self.folder}",
            )
        keep_private(self.folder, ("*",))
        if not self.settings.insecure:  # before the start: a run without any is plain
            open_identities(self.folder, self.settings)
        (self.folder / "broker.url").unlink(missing_ok=True)
        verb = "resume" if has_run(self.folder) else "run"
        log = self.folder / LOG
        self._child = ChildProcess("flash-coordinator", [verb, str(self.folder)], log)
        try:
            self._until(lambda: bool(self.broker), timeout_s, "its broker to answer")
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stops the coordinator as Ctrl-C does; what is accepted is kept."""
        child, self._child = self._child, None
        if child is not None:
            stop_all([child])

    def status(self) -> RunView:
        """State of the run: rounds with scores and bytes, devices with their state.

        Raises:
            StateError: If it has not begun.
        """
        ledger = read_ledger(self.folder)
        try:
            return read_run(self.settings, ledger)
        finally:
            ledger.close()

    def wait(
        self,
        rounds: int | None = None,
        *,
        timeout_s: float | None = None,
        progress: Callable[[RoundView], object] | None = None,
    ) -> FederationRun:
        """Waits until rounds are done, and reports each that is.

        Args:
            rounds: How many have to be done, the warm-up aside; None for all.
            timeout_s: Seconds to wait at most; None for no limit.
            progress: Called with each round that is done; None prints a line.

        Returns:
            What the run has given so far.

        Raises:
            RunError: If the coordinator ends earlier, or `timeout_s` is over.
        """
        wanted = (self.settings.rounds or 1 << 31) if rounds is None else rounds
        most = self.settings.rounds or 1 << 31
        if not isinstance(wanted, Integral) or not 0 <= wanted <= most:
            raise SettingsError(
                f"rounds is {wanted!r}; the run has {self.settings.rounds}",
                remedy="Wait for at most as many, or for all: wait().",
            )
        told: set[int] = set()
        show = progress or (lambda one: say(round_line(one, self.settings.rounds)))

        def enough() -> bool:
            try:
                view = self.status()
            except StateError:  # the ledger is not there yet
                return False
            done = [r for r in view.rounds if r.is_done]
            last = done[-1:]
            for one in (r for r in done if r.no not in told):
                # A model is scored density by density, while the next round runs.
                if not one.no or view.is_scored(one) or one not in last:
                    told.add(one.no)
                    show(one)
            scored = max(told, default=-1) >= wanted or not self.running
            return view.rounds_done >= wanted and scored

        self._until(enough, timeout_s, f"round {wanted}")
        return self.run

    @property
    def run(self) -> FederationRun:
        """Results of the run so far: history, plot, models by density."""
        return FederationRun(self.folder, self.settings)

    def _until(
        self, done: Callable[[], bool], timeout_s: float | None, what: str
    ) -> None:
        limit = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            alive = self.running
            if done():  # after `alive`: what a process did before its end counts
                return
            if self._child is None:
                raise StateError(
                    f"no coordinator of {self.folder} was started here",
                    remedy="Start it: federation.start(), or inside the with block.",
                )
            if not alive:
                raise RunError(
                    f"the coordinator of {self.folder} has ended before {what}: "
                    f"{last_words(self.folder / LOG)}",
                    remedy="Correct that, and start it again: it goes on.",
                )
            if limit is not None and time.monotonic() > limit:
                raise RunError(
                    f"waited {timeout_s:g} s for {what}",
                    remedy="Wait longer; status() says where the run stands.",
                )
            time.sleep(TICK_S)
            if self._child is not None:
                self._child.tend_log()
