"""A user's code may raise anything: what it was doing, and at which line."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edge_sdk.errors import EdgeError, TaskError

__all__ = ["blamed"]


@contextmanager
def blamed(task: str, doing: str) -> Iterator[None]:
    """Turns what a task's own code raises into an error for the person who wrote it.

    Args:
        task: The task's name.
        doing: What the code was called for, such as ``training on pi-1``.

    Raises:
        TaskError: Names the task, what it did and the innermost line that is not an
            installed package's. Our own errors pass as they are.
    """
    try:
        yield
    except EdgeError:
        raise
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        own = [frame for frame in frames if "site-packages" not in frame.filename]
        at = (own or frames)[-1]  # installed, we lie among the packages ourselves
        raise TaskError(
            f"task {task}: {doing} raised {type(error).__name__}: {error} "
            f"({Path(at.filename).name}, line {at.lineno})",
            remedy="Mend that line if it is your task's; --verbose says more.",
        ) from error
