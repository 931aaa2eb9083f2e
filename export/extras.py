"""Optional packages that the export needs, imported only when it starts."""

from __future__ import annotations

import importlib

from edge_sdk.errors import DependencyError

__all__ = ["require"]

_EXPORT = ("torch", "onnx", "onnxscript", "onnxruntime")


def require(*modules: str, extra: str = "export") -> None:
    """Checks that the modules can be imported; those of the export when none is named.

    Args:
        modules: Their names.
        extra: The extra of this package that brings them.

    Raises:
        DependencyError: Naming what is missing and the install line.
    """
    name = ""
    try:
        for name in modules or _EXPORT:
            importlib.import_module(name)
    except ImportError as error:
        raise DependencyError(
            f"the export needs {name}, which cannot be imported: {error}",
            remedy=f"pip install 'flash-edge[{extra}]'",
        ) from error
