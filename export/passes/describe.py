"""Writes into the file what it is: task, densities, mask digest, labels, versions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import onnx

from export.checks.stamp import BLANK, STAMP
from export.passes import PassResult

__all__ = ["PREFIX", "Describe", "description"]

PREFIX = "flash_edge."


@dataclass(frozen=True)
class Describe:
    """Sets ``metadata_props``, which onnxruntime returns as custom metadata.

    Attributes:
        facts: Key, without the prefix, to text.
    """

    facts: Mapping[str, str]

    def __call__(self, model: onnx.ModelProto) -> PassResult:
        """Writes the facts, sorted by key, so that equal exports are equal bytes."""
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
