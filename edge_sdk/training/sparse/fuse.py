"""Fusion of neighbouring layers of a sparse twin into one pass over memory."""

from __future__ import annotations

from dataclasses import replace

from torch import fx, nn

from edge_sdk.training.sparse.graph import is_add, is_relu, module_of, works_in_place
from edge_sdk.training.sparse.modules import BlockedMaxPool, BlockedNorm, SparseConv2d

__all__ = ["fuse"]


def fuse(graph: fx.GraphModule) -> None:
    """Fuses pool and ReLU; norm, residual and ReLU; and both into a following conv.

    Only values with one reader disappear, and only layers called once change.
    """
    _Fuser(graph).run()


class _Fuser:
    def __init__(self, graph: fx.GraphModule) -> None:
        self.graph = graph
        self.calls: dict[int, int] = {}
        for node in graph.graph.nodes:
            layer = module_of(graph, node)
            if layer is not None:
                self.calls[id(layer)] = self.calls.get(id(layer), 0) + 1

    def run(self) -> None:
        for rule in (self._pool_relu, self._norm_tail, self._into_conv):
            for node in list(self.graph.graph.nodes):
                if node.args and node in set(self.graph.graph.nodes):  # not erased
                    rule(node)

    def _once(self, node: fx.Node, kind: type[nn.Module]) -> nn.Module | None:
        """The layer of a node if it is of this kind and called nowhere else."""
        layer = module_of(self.graph, node)
        if isinstance(layer, kind) and self.calls[id(layer)] == 1:
            return layer
        return None

    def _only_reader(self, node: fx.Node) -> fx.Node | None:
        return next(iter(node.users)) if len(node.users) == 1 else None

    def _overwrites_shared(self, relu: fx.Node) -> bool:
        """Return whether others read what an in-place ReLU overwrites."""
        source = relu.args[0]
        return (
            works_in_place(self.graph, relu)
            and isinstance(source, fx.Node)
            and len(source.users) > 1
        )

    def _drop(self, node: fx.Node, instead: fx.Node) -> None:
        node.replace_all_uses_with(instead)
        self.graph.graph.erase_node(node)

    def _pool_relu(self, node: fx.Node) -> None:
        """Makes relu -> max pool, and max pool -> relu, one pass of equal value."""
        layer = self._once(node, BlockedMaxPool)
        if not isinstance(layer, BlockedMaxPool):
            return
        source, reader = node.args[0], self._only_reader(node)
        if isinstance(source, fx.Node) and is_relu(self.graph, source):
            if len(source.users) > 1 or self._overwrites_shared(source):
                return
            node.args = (source.args[0],)
            self.graph.graph.erase_node(source)
        elif reader is not None and is_relu(self.graph, reader):
            self._drop(reader, node)
        else:
            return
        layer.geometry = replace(layer.geometry, relu=True)

    def _norm_tail(self, node: fx.Node) -> None:
        """Makes norm -> (+ residual) -> relu the norm's own last steps."""
        layer = self._once(node, BlockedNorm)
        if not isinstance(layer, BlockedNorm):
            return
        reader = self._only_reader(node)
        if reader is not None and (pair := is_add(reader)) and pair[0] is not pair[1]:
            other = pair[1] if pair[0] is node else pair[0]
            after = self._only_reader(reader)
            if after is None or not is_relu(self.graph, after):
                return
            # The sum is formed where it stood, after its other half is known.
            with self.graph.graph.inserting_before(reader):
                moved = self.graph.graph.call_module(
                    str(node.target), (node.args[0], other)
                )
            self._drop(after, reader)
            self._drop(reader, moved)
            self.graph.graph.erase_node(node)
            layer.relu_after = True
        elif reader is not None and is_relu(self.graph, reader):
            self._drop(reader, node)
            layer.relu_after = True

    def _into_conv(self, node: fx.Node) -> None:
        """Lets a conv take over the norm or relu that only it reads."""
        conv = self._once(node, SparseConv2d)
        source = node.args[0]
        if not isinstance(conv, SparseConv2d) or not isinstance(source, fx.Node):
            return
        if len(source.users) > 1:
            return
        norm = self._once(source, BlockedNorm)
        if isinstance(norm, BlockedNorm) and len(source.args) == 1:
            conv.follow(norm, relu=norm.relu_after)  # its node passes x through
        elif is_relu(self.graph, source) and not self._overwrites_shared(source):
            conv.follow(None, relu=True)
            node.args = (source.args[0],)
            self.graph.graph.erase_node(source)
