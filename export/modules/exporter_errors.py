"""Failures of torch's exporter in a line: the first cause, and the layer it met."""

from __future__ import annotations

import contextlib
import re

import torch
from torch import nn

from edge_sdk.tasks.user_errors import place_of

__all__ = ["advice_for", "reason_of"]

_UNKNOWN = re.compile(r"No ONNX function found for .*?op='([\w.]+)'")


def reason_of(
    error: BaseException, model: nn.Module | None = None, *examples: torch.Tensor
) -> str:
    """The first cause and the user's line; of an unknown operation also its layer.

    What the exporter itself says is which of its steps failed; it chains the reason.

    Args:
        error: What the exporter raised.
        model: What was exported, to look for the operation in; None does not.
        examples: What it was exported with.
    """
    chain = [error]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) is not None:
        if cause in chain:
            break
        chain.append(cause)
    root = next((e for e in reversed(chain) if str(e).strip()), error)
    said = " ".join(str(root).strip().split("\n\n")[0].split())
    if unknown := _UNKNOWN.search(said):
        name = unknown[1]
        layer = "" if model is None else _layer(name, model, examples)
        return f"operation {name}{layer} has no form in ONNX"
    places = (place_of(e) for e in reversed(chain))
    at = next((place for place in places if place), "")
    return f"{type(root).__name__}: {said}{f' ({at})' if at else ''}"


def advice_for(reason: str) -> str:
    """Advice about a reason, for an error."""
    said = reason.lower().replace("-", "").replace(" ", "")
    if "datadependent" in said or "controlflow" in said:
        return (
            "What forward computes may not depend on values by an if, a loop or "
            ".item(): write it with torch.where, or torch.cond."
        )
    if any(name in said for name in ("linalg", "_svd", "cholesky", "lu_")):
        return (
            "Inverses, solutions and decompositions are none of ONNX's operations: "
            "compute those of constants before forward, into a buffer; for others end "
            "the model before it and compute the rest in the program. "
            "torch.linalg.det, products and norms are exported."
        )
    if "hasnoforminonnx" in said:
        return (
            "Write it with other operations (products, sums, reductions), or end the "
            "model before it and compute the rest in the program."
        )
    return "Every operation of the model must be traceable by torch.export."


def _layer(name: str, model: nn.Module, examples: tuple[torch.Tensor, ...]) -> str:
    """`` of layer block.1 (file, line 3)`` of an operation; "" where nobody knows."""
    with contextlib.suppress(Exception):
        program = torch.export.export(model, examples)
        for found in (program, program.run_decompositions()):
            for node in found.graph.nodes:
                if str(node.target).startswith(name):
                    stack = node.meta.get("nn_module_stack") or {}
                    path = [where for where, _ in stack.values()][-1:]
                    place = _line(node.meta.get("stack_trace") or "")
                    inside = f" of layer {path[0]}" if path and path[0] else ""
                    return f"{inside}{place}"
    return ""


def _line(trace: str) -> str:
    """`` (file, line 3)``, the innermost of a stack that is not torch's."""
    lines = re.findall(r'File "([^"]+)", line (\d+)', trace)
    own = [(file, at) for file, at in lines if "/torch/" not in file]
    return f" ({own[-1][0].rpartition('/')[2]}, line {own[-1][1]})" if own else ""
