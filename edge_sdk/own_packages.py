"""Our packages under their names, whatever else on the path is called so.

`coordinator` and `export` are names that a file of the user's may have, too. Commands
take ours by their place. Where Python itself decides, in a notebook or a
script, a name of ours that is used says which file hides the other ones (`lazy_names`).
"""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from edge_sdk.isolated_child import PACKAGES, take

__all__ = ["coordinator", "edge", "export", "lazy_names", "own_version"]

ROOT = Path(__file__).resolve().parents[1]


def edge() -> None:
    """Entry point of `flash-edge`."""
    _main("edge_sdk.cli")


def coordinator() -> None:
    """Entry point of `flash-coordinator`."""
    _main("coordinator.cli")


def export() -> None:
    """Entry point of `flash-export`."""
    _main("export.cli")


@lru_cache(maxsize=1)  # reading the distribution's files takes milliseconds
def own_version() -> str:
    """The installed version of this distribution; ``unknown`` in a bare tree."""
    from importlib.metadata import PackageNotFoundError, version  # noqa: PLC0415 - sockets

    try:
        return version("flash-edge")
    except PackageNotFoundError:
        return "unknown"


def _main(module: str) -> None:
    for name in PACKAGES:
        take(name, str(ROOT))
    importlib.import_module(module).main()


def lazy_names(
    package: str, homes: Mapping[str, tuple[str, str]]
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """`__getattr__` and `__dir__` of a package that imports a name at its first use.

    Args:
        package: The package.
        homes: Name to its module, and what it is called there.
    """
    names = vars(sys.modules[package])

    def get(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        take("device_profiles", str(ROOT))  # which nobody but ours asks for
        _tell_hidden()
        module, attribute = homes[name]
        names[name] = found = getattr(importlib.import_module(module), attribute)
        return found

    return get, lambda: sorted({*names, *homes})


def _tell_hidden() -> None:
    """Warn of files that were imported in the place of packages of ours."""
    for name in PACKAGES:
        file = getattr(sys.modules.get(name), "__file__", None)
        if file is not None and Path(file).resolve().parent != ROOT / name:
            warnings.warn(
                f"{file} hides the package {name} of flash-edge: give that file "
                "another name, then restart Python",
                stacklevel=3,
            )
