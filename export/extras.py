"""Which optional packages the export needs, asked for only when it starts."""

from __future__ import annotations

import importlib

from edge_sdk.errors import DependencyError

__all__ = ["require"]

_EXPORT = ("torch", "onnx", "onnxscript", "onnxruntime")


def require(*modules: str) -> None:
    """Checks that the modules can be imported; those of the export when none is named.

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
            remedy="pip install 'flash-edge[export]'",
        ) from error
