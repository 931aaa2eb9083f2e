"""Small graph passes; one that must run after another says so.

A pass changes the model it is given and says whether it did; `run` chains them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import onnx

from edge_sdk.errors import EdgeError, ExportError

__all__ = ["Pass", "PassResult", "run"]


@dataclass(frozen=True)
class PassResult:
    """The model after a pass.

    Attributes:
        model: The same object the pass was given, changed in place.
        modified: Whether anything changed.
        note: What changed, in words; empty when nothing did.
    """

    model: onnx.ModelProto
    modified: bool
    note: str = ""


class Pass(Protocol):
    """One change of a graph."""

    def __call__(self, model: onnx.ModelProto) -> PassResult:
        """Changes the model in place."""
        ...


def run(model: onnx.ModelProto, passes: Sequence[Pass]) -> list[str]:
    """Runs the passes in order and returns their notes.

    Raises:
        ExportError: If a pass fails; names the pass and the reason.
    """
    notes = []
    for step in passes:
        name = type(step).__name__
        try:
            result = step(model)
        except EdgeError:
            raise
        except Exception as error:
            raise ExportError(
                f"pass {name} failed: {type(error).__name__}: {error}",
                remedy="Export with --format onnx, and report the model's operators.",
            ) from error
        if result.modified:
            notes.append(f"{name}: {result.note}")
    return notes
