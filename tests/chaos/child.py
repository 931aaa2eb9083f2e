"""What is different in a process under chaos: shorter waits, kill points, a wild clock.

The waits are the product's own constants, divided, so that a fault costs a second
instead of a minute; which decision follows is not touched.
"""

from __future__ import annotations

import contextlib
import datetime
import importlib
import os
import re
import signal
import sqlite3
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from chaos import mutants

OURS = ("coordinator", "edge_sdk")


def prepare(options: Mapping[str, Any]) -> None:
    """Changes this process before its `main` runs.

    Args:
        options: `writes` (file that lists the durable writes), `die_at` (count of a
            durable write), `die_where` (only those are counted whose kind and place
            match this) and `die` ("before" or "after" it), `clock` (file with seconds
            that the wall clock is off), `mutant` (a name in `mutants`), `keep_steps`
            (training keeps a checkpoint after each step), `waits` (module.NAME of a
            wait to its seconds), `warm_up` (file that a device's warm-up waits for
            before it trains).
    """
    shorten_deadline()
    for place, seconds in options.get("waits", {}).items():
        module, _, name = place.rpartition(".")
        _set(importlib.import_module(module), name, seconds)
    if "warm_up" in options:
        hold_warm_up(Path(options["warm_up"]))
    if options.get("keep_steps"):
        keep_every_step()
    if "writes" in options or "die_at" in options:
        watch_writes(
            Path(options["writes"]) if "writes" in options else None,
            options.get("die_at", 0),
            options.get("die", "before"),
            re.compile(options.get("die_where", "")),
        )
    if "clock" in options:
        shift_wall_clock(Path(options["clock"]))
    if "mutant" in options:
        mutants.MUTANTS[options["mutant"]]()


def shorten_deadline() -> None:
    """Divides the waits; a constant that is gone is an error, not a slow run."""
    from coordinator.rounds import deadlines as pacing
    from coordinator.server import loop as server
    from coordinator.server import round_closing, run_end
    from edge_sdk.agent import loop
    from edge_sdk.transport import link, mqtt

    _set(loop, "NUDGE_S", {p: s / 8 for p, s in loop.NUDGE_S.items()})
    _set(pacing, "FIRST_GRACE_S", 8.0)
    _set(pacing, "GRACE_S", 2.5)
    _set(server, "RETURN_S", 6.0)
    _set(server, "TICK_S", 0.05)
    _set(run_end, "LAST_WORDS_S", 2.0)
    _set(link, "KEEPALIVE_S", 3)
    _set(mqtt, "RETRY_S", (0.2, 1.0))
    _set(round_closing, "MAX_ABORTS", 50)  # a run of faults is meant to abort rounds


def keep_every_step() -> None:
    """Local training keeps its checkpoint after each step, not twice a minute."""
    from edge_sdk.training.checkpoint import Progress

    defaults = Progress.__init__.__kwdefaults__
    if "every_s" not in defaults:
        raise AttributeError("Progress has no every_s: tell tests/chaos")
    defaults["every_s"] = 0.0


def hold_warm_up(file: Path) -> None:
    """A warm-up takes until there is a file, and longer than anybody had reckoned."""
    from edge_sdk.training.runner import TaskRunner
    from edge_sdk.wire.rules import WarmUp

    real = TaskRunner.run

    def run(self: TaskRunner, order: Any, base: Any, stop: Any, *more: Any) -> Any:
        while isinstance(order.rule, WarmUp) and not file.exists() and not stop():
            time.sleep(0.02)
        return real(self, order, base, stop, *more)

    TaskRunner.run = run  # type: ignore[method-assign]


def _set(module: Any, name: str, value: object) -> None:
    if not hasattr(module, name):
        raise AttributeError(f"{module.__name__}.{name} is gone: tell tests/chaos")
    setattr(module, name, value)


# -- durable writes --------------------------------------------------------------------


def watch_writes(
    log: Path | None, die_at: int, die: str, where: re.Pattern[str]
) -> None:
    """Counts every fsync, rename and commit, and dies by SIGKILL at one of them.

    Before a sync, half of what the file got since its last one is lost, as at a power
    cut.
    """
    count, lock = 0, threading.Lock()
    synced = _Synced()

    def around(
        kind: str, action: Callable[[], Any], lose: Callable[[], None] = lambda: None
    ) -> Any:
        nonlocal count
        place = f"{kind} {_where()}"
        if not where.search(place):
            return action()
        with lock:  # threads write, too
            count += 1
            mine = count
        if log is not None:
            with log.open("a") as file:
                file.write(f"{place}\n")
        if mine == die_at and die == "before":
            lose()
            os.kill(os.getpid(), signal.SIGKILL)
        result = action()
        if mine == die_at and die == "after":
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    real_fsync, real_replace = os.fsync, os.replace

    def fsync(fd: int) -> None:
        around("fsync", lambda: real_fsync(fd), lambda: synced.lose_half(fd))
        synced.note(fd)

    os.fsync = fsync
    os.replace = lambda *a, **k: around(  # type: ignore[assignment]
        "replace", lambda: real_replace(*a, **k)
    )
    _watch_commits(around)


def _watch_commits(around: Callable[[str, Callable[[], Any]], Any]) -> None:
    class Watched(sqlite3.Connection):
        def execute(self, sql: str, *arguments: Any) -> sqlite3.Cursor:
            real = super().execute
            if sql.strip().upper().startswith("COMMIT"):
                result: sqlite3.Cursor = around("commit", lambda: real(sql, *arguments))
                return result
            return real(sql, *arguments)

        def commit(self) -> None:
            around("commit", super().commit)

    real_connect = sqlite3.connect

    def connect(*arguments: Any, **named: Any) -> sqlite3.Connection:
        return real_connect(*arguments, **{"factory": Watched} | named)

    sqlite3.connect = connect  # type: ignore[assignment]


class _Synced:
    """How much of each file is on the disk, by inode."""

    def __init__(self) -> None:
        self._sizes: dict[int, int] = {}

    def note(self, fd: int) -> None:
        now = os.fstat(fd)
        self._sizes[now.st_ino] = now.st_size

    def lose_half(self, fd: int) -> None:
        now = os.fstat(fd)
        with contextlib.suppress(OSError):  # a folder, or open to read
            os.truncate(fd, (self._sizes.get(now.st_ino, 0) + now.st_size) // 2)


def _where() -> str:
    """The functions of ours that lead to a write, innermost first."""
    names = []
    frame = sys._getframe(2)
    while frame is not None and len(names) < 4:
        module = frame.f_globals.get("__name__", "")
        code = frame.f_code.co_name
        if module.split(".")[0] in OURS and not code.startswith("<"):
            names.append(f"{module}.{code}")
        frame = frame.f_back  # type: ignore[assignment]
    return " < ".join(names)


# -- the wall clock --------------------------------------------------------------------


def shift_wall_clock(file: Path) -> None:
    """Puts `time.time` and `datetime.now` off by what a file says, at each call."""
    real_time, real_datetime = time.time, datetime.datetime  # noqa: TID251

    def off() -> float:
        try:
            return float(file.read_text())
        except (OSError, ValueError):
            return 0.0

    class Shifted(real_datetime):  # type: ignore[misc, valid-type]
        @classmethod
        def now(cls, tz: datetime.tzinfo | None = None) -> Shifted:
            return cls.fromtimestamp(real_time() + off(), tz)

    time.time = lambda: real_time() + off()  # noqa: TID251
    for name, module in list(sys.modules.items()):
        if name.split(".")[0] in OURS:
            for key, value in list(vars(module).items()):
                if value is real_datetime:
                    setattr(module, key, Shifted)
                elif value is real_time:
                    setattr(module, key, time.time)  # noqa: TID251
