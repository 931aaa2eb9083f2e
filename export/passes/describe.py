"""Writes into the file what it is: task, densities, labels, names of its outputs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import onnx

from edge_sdk.infer.output_parts import output_parts_of
from export.checks.stamp import BLANK, STAMP
from export.passes import PassResult
from export.passes.graph import rename

__all__ = ["PREFIX", "Describe", "NameOutputs", "description"]

PREFIX = "flash_edge."


@dataclass(frozen=True)
class NameOutputs:
    """Gives outputs their names; values inside that are called so get others.

    Other passes and onnxruntime's quantiser make names out of names, so that outputs
    are named last.

    Attributes:
        names: In order; none leaves the graph as it is.
    """

    names: Sequence[str]

    def __call__(self, model: onnx.ModelProto) -> PassResult:
        """Renames in place."""
        if not self.names:
            return PassResult(model, modified=False, note="")
        graph = model.graph
        inside = {name for node in graph.node for name in node.output}
        inside |= {tensor.name for tensor in graph.initializer}
        own = [output.name for output in graph.output]
        names = dict(zip(own, self.names, strict=True))
        for name in self.names:
            if name in inside and name not in names:
                other = f"{name} inside"
                while other in inside:
                    other += "'"
                names[name] = other
        rename(model, names)
        for output in graph.output:
            output.name = names[output.name]
        return PassResult(model, modified=True, note=f"{len(own)} outputs named")


@dataclass(frozen=True)
class Describe:
    """Sets ``metadata_props``, which onnxruntime returns as custom metadata.

    Attributes:
        facts: Key, without the prefix, to text.
    """

    facts: Mapping[str, str]

    def __call__(self, model: onnx.ModelProto) -> PassResult:
        """Writes the facts, sorted by key, so that equal exports are equal bytes.

        Outputs get the names that the facts list.
        """
        outputs = output_parts_of(json.loads(self.facts.get("outputs", "null")))
        NameOutputs([output.name for output in outputs])(model)
        model.producer_name = "flash-edge"
        model.producer_version = self.facts.get("version", "")
        model.graph.name = self.facts.get("task", "model")
        facts = {**self.facts, STAMP: BLANK}
        entries = {PREFIX + key: text for key, text in sorted(facts.items())}
        onnx.helper.set_model_props(model, entries)
        return PassResult(model, modified=True, note=f"{len(entries)} facts")


def description(model: onnx.ModelProto) -> dict[str, str]:
    """The facts of a file that `Describe` wrote; empty for another's file."""
    return {
        entry.key.removeprefix(PREFIX): entry.value
        for entry in model.metadata_props
        if entry.key.startswith(PREFIX)
    }
