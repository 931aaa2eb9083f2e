"""A user's code may raise anything: what it was doing, and at which line."""

from __future__ import annotations

import sysconfig
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edge_sdk.errors import EdgeError, TaskError

__all__ = ["blamed", "place_of", "told"]

_SDK = Path(__file__).resolve().parents[1]
_OURS = [_SDK.parent / name for name in ("edge_sdk", "coordinator", "export")]
_STDLIB = Path(sysconfig.get_path("stdlib"))
_LIBRARIES = frozenset({"torch", "numpy", "torchvision"})
_SHIPPED = [_SDK / "zoo"]


@contextmanager
def blamed(task: str, doing: str) -> Iterator[None]:
    """Turns what a task's own code raises into an error for the person who wrote it.

    Args:
        task: The task's name.
        doing: What the code was called for, such as ``training on pi-1``.

    Raises:
        TaskError: Names the task, what it did and the innermost line of the person's
            own. Our own errors pass as they are.
    """
    try:
        yield
    except EdgeError:
        raise
    except (Exception, SystemExit) as error:
        at = place_of(error)
        raise TaskError(
            f"task {task}: {doing} raised {type(error).__name__}: {error}"
            + (f" ({at})" if at else ""),
            remedy=f"Correct {at}; --verbose says more."
            if at
            else "Check that data, model and loss of the task fit each other; "
            "--verbose says more.",
        ) from error


def told(error: BaseException, most: int | None = None) -> str:
    """An exception of a person's code on one line: ``KeyError: text (file, line n)``.

    Args:
        error: Whatever was raised.
        most: Characters of its text at most; None for all of it.
    """
    at, said = place_of(error), " ".join(str(error).split())[:most]
    return f"{type(error).__name__}: {said}{f' ({at})' if at else ''}"


def place_of(error: BaseException) -> str:
    """The innermost line of the person's own code, ``file, line n``; empty without one.

    Neither ours nor torch's is a line that this person could mend. A task may be
    installed itself: where no code lies elsewhere, an installed line is told.
    """
    installed = ""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        path = Path(frame.filename)
        shipped = any(path.is_relative_to(place) for place in _SHIPPED)
        ours = not shipped and any(path.is_relative_to(place) for place in _OURS)
        packaged = bool({"site-packages", "dist-packages"} & set(path.parts))
        stdlib = path.is_relative_to(_STDLIB) and not packaged
        if ours or stdlib or not path.is_file():
            continue
        at = f"{path.name}, line {frame.lineno}"
        if not packaged:
            return at
        if not _LIBRARIES & set(path.parts):
            installed = installed or at
    return installed
