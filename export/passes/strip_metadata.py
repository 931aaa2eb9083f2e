"""Removes what exporters write about the machine: source paths, stacks, doc strings."""

from __future__ import annotations

from dataclasses import dataclass

import onnx

from export.passes import PassResult

__all__ = ["StripMetadata"]


@dataclass(frozen=True)
class StripMetadata:
    """Removes node, value and tensor metadata, doc strings and value infos.

    Measured with torch 2.13: 4.5 kB on MNISTNet, 67 kB on ResNet18, and the absolute
    paths of the exporting machine's source files in every node.
    """

    def __call__(self, model: onnx.ModelProto) -> PassResult:
        """Strips the model in place."""
        before = model.ByteSize()
        graph = model.graph
        for item in (model, graph, *model.functions):
            item.doc_string = ""
            del item.metadata_props[:]
        del graph.value_info[:]
        for node in graph.node:
            node.doc_string = ""
            node.name = ""
            del node.metadata_props[:]
        for item in (*graph.initializer, *graph.input, *graph.output):
            item.doc_string = ""
            del item.metadata_props[:]
        saved = before - model.ByteSize()
        return PassResult(model, saved > 0, f"{saved} bytes of metadata removed")
