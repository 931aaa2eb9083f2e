"""An interpreter for scripts, which run as forks of one that has imported torch.

A build by `flash-export` takes 5.6 s of processor time, most of it for modules of other
projects: torch, its exporter, onnx. Those alone are imported before; our own are
imported by each script anew, so that a missing import fails as a person's command does.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

__all__ = ["EXPORTERS", "WarmPython"]

# Not onnxruntime: it starts a thread, and takes 0.04 s.
EXPORTERS = (
    *("torch", "torch._dynamo", "torch.export._trace", "torch.nn.utils.prune"),
    *("torch.onnx._internal.exporter._compat", "torch.onnx._internal.fx.passes"),
    *("torch.onnx._internal.exporter._torchlib.ops", "onnxscript"),
    *("onnxscript.function_libs.torch_lib.ops", "onnx", "safetensors.torch"),
    *("cryptography.x509", "msgspec", "typer"),
)
REQUEST = 128 * 1024  # bytes at most; a socket of packets takes 208 KiB
# The process that is started for a script: signals go on to its fork, whose exit code
# it has.
CLIENT = """\
#!{python} -IS
import json, os, signal, socket, sys
link = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
link.connect({path!r})
mask = os.umask(0)
os.umask(mask)
request = dict(script=sys.argv[1:], cwd=os.getcwd(), env=dict(os.environ), mask=mask)
socket.send_fds(link, [json.dumps(request).encode()], [0, 1, 2])
def tell(number, _frame):
    link.send(bytes([number]))
passed_on = signal.SIGINT, signal.SIGTERM, signal.SIGHUP
for number in passed_on:
    signal.signal(number, tell)
code = json.loads(link.recv(64))
if code < 0:
    for number in passed_on:
        signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), -code)
os._exit(code)
"""


class WarmPython:
    """A warm interpreter, and what takes the place of `python` in `#!python`.

    Args:
        folder: For its socket and the program; its path is short.
        modules: Imported before scripts are run.

    Attributes:
        program: Runs the script that is its first argument.
    """

    def __init__(self, folder: Path, modules: Sequence[str] = EXPORTERS) -> None:
        path, self.program = folder / "socket", folder / "python"
        self._process = subprocess.Popen(
            [sys.executable, __file__, str(path), *modules],
            env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == b"ready\n"
        self.program.write_text(CLIENT.format(python=sys.executable, path=str(path)))
        self.program.chmod(0o755)

    def close(self) -> None:
        """Kills every script that still runs."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()


def main() -> None:
    """Runs a script in a fork for each client, until stdin ends."""
    path, *modules = sys.argv[1:]
    for name in modules:
        importlib.import_module(name)
    # A fork takes only its own thread along: a second one could hold a lock for ever.
    if len(os.listdir("/proc/self/task")) > 1:  # noqa: PTH208 - of the kernel, no files
        raise SystemExit("the interpreter has threads; a fork would not be sound")
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind(path)
    listener.listen(64)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    while True:
        ready, _, _ = select.select([listener, 0], [], [])
        with contextlib.suppress(ChildProcessError):  # there is none
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        if 0 in ready:
            os.killpg(0, signal.SIGKILL)
        link, _ = listener.accept()
        if os.fork() == 0:
            listener.close()
            _keep(link)
        link.close()


def _keep(link: socket.socket) -> None:
    """Runs a script in a fork of this one, and says its exit code; never returns."""
    data, files, _, _ = socket.recv_fds(link, REQUEST, 3)
    script = os.fork()
    if script == 0:
        link.close()
        _run(json.loads(data), files)
    for file in files:  # who reads what the script writes sees its end
        os.close(file)
    end = os.pidfd_open(script)
    while True:
        ready, _, _ = select.select([link, end], [], [])
        if end in ready:
            break
        told = link.recv(1)
        os.kill(script, told[0] if told else signal.SIGKILL)
        if not told:  # the client is gone
            break
    _, status = os.waitpid(script, 0)
    with contextlib.suppress(OSError):  # the client is gone
        link.send(json.dumps(os.waitstatus_to_exitcode(status)).encode())
    os._exit(0)


def _run(request: dict[str, Any], files: list[int]) -> None:
    """Runs a script as `python SCRIPT` does, and exits."""
    for source, target in zip(files, (0, 1, 2), strict=True):
        os.dup2(source, target)
        os.close(source)
    os.umask(request["mask"])
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    script = request["script"]
    sys.argv, sys.orig_argv = script, [sys.executable, *script]
    sys.path[0] = str(Path(script[0]).parent)  # instead of this file's folder
    runpy.run_path(script[0], run_name="__main__")
    sys.exit()


if __name__ == "__main__":
    main()
