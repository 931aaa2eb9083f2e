"""The training program of a run: made once, when a device needs or gains from it."""

from __future__ import annotations

import logging
import threading
from typing import Literal

import numpy as np

from coordinator.ledger import Ledger
from edge_sdk.checkpoint import replace_file
from edge_sdk.errors import EdgeError, EngineError, two_sentences
from edge_sdk.program.file import unpack_program
from edge_sdk.tasks.task import Examples, Task
from edge_sdk.tasks.user_errors import blamed
from edge_sdk.wire.messages import Hello

__all__ = ["WORTH_COMPILING_S", "RunProgram", "needs_program"]

log = logging.getLogger(__name__)

FILE = "program.bin"
# Compiling takes some ten seconds of a processor, once per run. Where tasks have
# trained for this long in all, a program pays that back soon.
WORTH_COMPILING_S = 20.0
_SHOWN = 8  # examples that the model is captured on, and compared with torch


def needs_program(hello: Hello) -> bool:
    """Return whether a device trains by a program alone: it has no torch."""
    return hello.engines == ["program"]


class RunProgram:
    """Compiles the task's model when a device needs it or would gain, beside the run.

    A run goes on with the program it began with: what is in its folder is taken, so
    that an order names the same digest after a crash. One of another run, which had the
    folder before, is deleted.

    Args:
        task: What is trained.
        examples: The evaluation set; the model is captured on a few of it, or
            on made-up inputs.
        ledger: The run's; its folder keeps the program.

    Attributes:
        content: The program; empty until it is made.
        why_not: Why there is none and will be none; empty otherwise.
    """

    def __init__(self, task: Task, examples: Examples | None, ledger: Ledger) -> None:
        self._task, self._examples = task, examples
        self._path = ledger.folder / FILE
        if not ledger.rounds():  # no order names any program yet
            self._path.unlink(missing_ok=True)
        self._thread: threading.Thread | None = None
        self.content, self.why_not = b"", ""

    def ask(self) -> Literal["here", "coming", "none"]:
        """Begin to make the program if nobody has; tell how far it is."""
        if self.content:
            return "here"
        if self.why_not:
            return "none"
        if self._thread is None:
            self._thread = threading.Thread(
                target=self._make, name="compile", daemon=True
            )
            self._thread.start()
        return "coming"

    def close(self) -> None:
        """Wait until nothing is being made: a process that ends under it aborts."""
        if self._thread is not None and self._thread.is_alive():
            log.info("waiting until the training program is compiled")
            self._thread.join()

    def _make(self) -> None:
        try:
            self.content = self.kept() or self._compiled()
        except EdgeError as error:
            self.why_not = two_sentences(error, error.help)
            log.warning(
                "no training program, which boards without torch need: %s", self.why_not
            )

    def kept(self) -> bytes:
        """The program of the run's folder; empty without one that is whole."""
        try:
            found = self._path.read_bytes()
            unpack_program(found)
        except FileNotFoundError:
            return b""
        except (OSError, EngineError) as error:
            log.warning("%s is made again: %s", self._path, error)
            return b""
        return found

    def _compiled(self) -> bytes:
        """The program of a few examples; raises an `EdgeError` where there is none."""
        from edge_sdk.program.capture import compiled  # noqa: PLC0415 - torch's compiler
        from edge_sdk.tasks.batch import tensors  # noqa: PLC0415
        from edge_sdk.tasks.example_inputs import made_up_batch  # noqa: PLC0415
        from edge_sdk.tasks.layers import make_model  # noqa: PLC0415

        if self._examples is None:
            batch = made_up_batch(self._task, _SHOWN)
        else:
            few = np.arange(_SHOWN) % len(self._examples)
            batch = tensors(self._task, self._examples, few)
        with blamed(self._task.name, "compiling its model"):
            found = compiled(make_model(self._task, 0), self._task.loss, *batch)
        if not found.file:
            raise EngineError(found.reason, remedy="Give these devices torch.")
        replace_file(self._path, found.file)
        log.info("compiled a training program")
        return found.file
