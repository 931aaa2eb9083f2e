"""Starts our commands by forking a warm interpreter: a restart costs 50 ms, not 3 s.

A process of torch spends seconds of CPU on imports, and a chaos run restarts dozens.
So one process imports everything once and forks; the child then runs the command's own
`main`, with its own arguments, session and log, and dies by any signal like any other.

Its arguments are the modules that it imports before, instead of all of our commands.
Requests are lines of JSON on stdin, answers lines on stdout; at end of file every child
is killed. A request has module, arguments, cwd and log; `errors`, else they go to the
log, too; `env`, else the fork has this interpreter's; and `child`, what is different
under chaos (see `child.py`).
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

WARM = (
    "edge_sdk.cli",
    "edge_sdk.agent",
    "edge_sdk.storage.journal",
    "edge_sdk.tasks.task",
    "edge_sdk.training.runner",
    "edge_sdk.transport.mqtt",
    "coordinator.cli",
    "coordinator.server.wiring",
    "chaos.child",
)


def main() -> None:
    """Answers requests until stdin ends; in a forked child, becomes the command."""
    for name in sys.argv[1:] or WARM:
        importlib.import_module(name)
    if not sys.argv[1:]:
        task = importlib.import_module("edge_sdk.tasks.task").load_task("digits")
        cost = importlib.import_module("edge_sdk.tasks.cost")
        cost.workload_of(task, examples=8, epochs=1, batch=8)  # more imports in there
    # A fork takes only its own thread along: a second one could hold a lock for ever.
    if len(os.listdir("/proc/self/task")) > 1:  # noqa: PTH208 - of the kernel, no files
        raise SystemExit("the zygote has threads; a fork of it would not be sound")
    children: set[int] = set()
    _answer({"ready": True})
    for line in sys.stdin:
        request = json.loads(line)
        if "poll" in request:
            _answer({"rc": _poll(request["poll"], children)})
            continue
        pid = os.fork()
        if pid == 0:
            _become(request)()
            return
        children.add(pid)
        _answer({"pid": pid})
    for pid in children:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    sys.stdout.flush()
    os._exit(0)  # nothing here needs torch's farewell of five seconds


def _answer(value: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


def _poll(pid: int, children: set[int]) -> int | None:
    """The exit code of a child, negative for a signal; None while it runs."""
    done, status = os.waitpid(pid, os.WNOHANG)
    if not done:
        return None
    children.discard(pid)
    return os.waitstatus_to_exitcode(status)


def _become(request: dict[str, Any]) -> Callable[[], None]:
    """Turns this fork into one of our commands; returns its `main`."""
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # as Python starts
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    out, errors = (
        os.open(request[name], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        for name in ("log", "errors" if "errors" in request else "log")
    )
    null = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((null, 0), (out, 1), (errors, 2)):
        os.dup2(source, target)
    os.chdir(request["cwd"])
    sys.stdin = Path(os.devnull).open()  # noqa: SIM115 - for the process's life
    line = [request["module"], *request["arguments"]]
    sys.argv, sys.orig_argv = line, [sys.executable, "-m", *line]
    if "env" in request:
        os.environ.clear()
        os.environ.update(request["env"])
    if "child" in request:
        importlib.import_module("chaos.child").prepare(request["child"])
    else:
        sys.path[:2] = [request["cwd"]]  # instead of this file's folder, and of tests
    return importlib.import_module(request["module"]).main  # type: ignore[no-any-return]


if __name__ == "__main__":
    main()
