"""Objects of a user's own, found by ``package.module:object``."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import TypeVar

from edge_sdk.errors import EdgeError, a_type

__all__ = ["find_tasks_beside", "load_object", "reference_of"]

T = TypeVar("T")


def find_tasks_beside(folder: Path | None) -> tuple[Path, ...]:
    """Put the folders of a user's own task last on the import path.

    That is the folder of the settings file which names it, if there is one, and then
    the current folder. Both come last on the import path, so that a file there stands
    in for no module of ours or of Python's.

    Returns:
        The folders, in the order in which they are looked at.
    """
    folders = tuple(
        dict.fromkeys(p.resolve() for p in (folder, Path()) if p is not None)
    )
    for each in map(str, folders):
        if each not in sys.path:
            sys.path.append(each)
    return folders


def load_object(
    reference: str,
    kind: type[T],
    *,
    what: str,
    wanted: str,
    error: type[EdgeError],
    beside: Path | None = None,
) -> T:
    """The object named by ``package.module:object``.

    Args:
        reference: Its name, with a colon.
        kind: What it has to be an instance of.
        what: What it is, for messages: ``task``.
        wanted: The kind's public name, for messages.
        error: What is raised.
        beside: Folder of the settings file which names it; see `find_tasks_beside`.

    Raises:
        EdgeError: Of the kind `error`, if it cannot be imported or is something else;
            says which part failed.
    """
    module_name, _, attribute = reference.partition(":")
    folders = find_tasks_beside(beside)
    importlib.invalidate_caches()  # the file may have been written a moment ago
    try:
        module = importlib.import_module(module_name)
    except (Exception, SystemExit) as raised:
        where = ""
        if isinstance(raised, ModuleNotFoundError) and raised.name == module_name:
            where = f" (looked in {', '.join(map(str, folders))} too)"
        raise error(
            f"{what} {reference!r}: importing {module_name} failed: "
            f"{type(raised).__name__}: {raised}{where}"
        ) from raised
    found = getattr(module, attribute, None)
    if found is None or not isinstance(found, kind):
        _check_not_hidden(what, module_name, module, folders, error)
        seen = "nothing" if found is None else a_type(found)
        raise error(
            f"{what} {reference!r}: {module_name} has {seen} named {attribute!r}, "
            f"not {wanted}"
        )
    return found


def reference_of(thing: object) -> str | None:
    """``module:object`` of what a module holds by name; None where none does.

    One of ``__main__`` counts where no other has it, although no other process can
    import that.
    """
    mains = ("__main__", "__mp_main__")
    for name, module in sorted(
        sys.modules.items(), key=lambda m: (m[0] in mains, m[0])
    ):
        for attribute, value in list(getattr(module, "__dict__", {}).items()):
            if value is thing and not attribute.startswith("_"):
                return f"{name}:{attribute}"
    return None


def _check_not_hidden(
    what: str,
    name: str,
    module: ModuleType,
    folders: Iterable[Path],
    error: type[EdgeError],
) -> None:
    """Refuses a file of the user's that has the name of an installed module.

    Raises:
        EdgeError: If so.
    """
    own = [folder.joinpath(*name.split(".")) for folder in folders]
    files = [f for one in own for f in (one.with_suffix(".py"), one / "__init__.py")]
    where = getattr(module, "__file__", None)
    mine = [file for file in files if file.exists()]
    if mine and (where is None or Path(where).resolve() not in mine):
        raise error(
            f"{mine[0]} has the name of an installed module, {name}, which is imported "
            "in its place",
            remedy=f"Give the file another name, also in the {what}'s reference.",
        )
