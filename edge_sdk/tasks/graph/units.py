"""Units of a model that can be cut: read off the graph of its layers.

A unit can be cut where every layer that reads it is maskable: its columns are then
masked there, and what the unit gives reaches nobody. Units that are added to each other
are cut together, as are those of a depth-wise convolution and of one norm group. Where
the graph holds an operation that is not known here, the units that enter it stay.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from math import lcm
from typing import Any

from torch import fx, nn

from edge_sdk.sparse import LayerShape, Units
from edge_sdk.tasks.graph.operations import (
    CONVS,
    ELEMENTWISE,
    ELEMENTWISE_NAMES,
    JOINS,
    NORMS,
    POOLS,
    SPATIAL,
    flattens_all,
    means_over_space,
    name_of,
)
from edge_sdk.tasks.graph.tracing import trace_layers

__all__ = ["with_units"]

_FEATURES, _FLAT = 0, -1


@dataclass(eq=False)
class _Group:
    """Units under construction; a group that was joined to another points at it."""

    size: int
    block: int = 1
    stays: bool = False
    made_by: list[str] = field(default_factory=list)
    read_by: list[str] = field(default_factory=list)
    entries: list[str] = field(default_factory=list)
    joined: _Group | None = None

    def root(self) -> _Group:
        return self if self.joined is None else self.joined.root()


@dataclass(frozen=True)
class _Value:
    """A value of the graph and the units on its axis 1.

    Attributes:
        group: Whose units.
        space: Axes behind them; 0 after a linear layer or a mean over all of them, -1
            where they were flattened, each unit with its own.
    """

    group: _Group
    space: int


def with_units(
    model: nn.Module, layers: Sequence[LayerShape]
) -> tuple[LayerShape, ...]:
    """The maskable layers with the units that can be cut; none if it cannot be traced.

    Args:
        model: Whose layers they are; its mode is left as it is.
        layers: From `layers_of`.

    Example:
        >>> from edge_sdk.tasks.layers import layers_of
        >>> net = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
        >>> with_units(net, layers_of(net))[1].inputs.size
        6
    """
    try:
        graph = trace_layers(model, training=False)
    except Exception:  # noqa: BLE001 - the user's own Python: it keeps all its units
        return tuple(layers)
    walk = _Walk(model, {layer.name for layer in layers})
    for node in graph.nodes:
        walk.visit(node)
    return tuple(walk.named(layer) for layer in layers)


class _Walk:
    """One pass over the graph, joining units as operations ask for it."""

    def __init__(self, model: nn.Module, maskable: set[str]) -> None:
        self._modules = dict(model.named_modules())
        self._parameters = dict(model.named_parameters(remove_duplicate=False))
        self._maskable = maskable
        self._values: dict[fx.Node, _Value] = {}
        self._makes: dict[str, _Group] = {}
        self._reads: dict[str, _Group] = {}
        self._fixed: set[str] = set()  # weights that are used beside their layer

    def visit(self, node: fx.Node) -> None:
        """Follow one node; what is not known keeps the units that enter it."""
        if node.op == "get_attr":
            self._fixed.add(str(node.target))
            return
        if node.op in {"placeholder", "output"}:
            self._keep(node.all_input_nodes)
            return
        if _is_shape(node):  # sizes say nothing of what units hold
            return
        value = self._followed(node)
        if value is None:
            self._keep(node.all_input_nodes)
        else:
            self._values[node] = value

    def named(self, layer: LayerShape) -> LayerShape:
        """The layer with those of its units that can be cut."""
        if layer.name in self._fixed:
            return layer
        return replace(
            layer,
            outputs=self._units(self._makes.get(layer.name)),
            inputs=self._units(self._reads.get(layer.name)),
        )

    def _units(self, group: _Group | None) -> Units | None:
        if group is None:
            return None
        found = group.root()
        weights = {*found.made_by, *found.read_by}
        stays = found.stays or not found.read_by or found.size % found.block
        if stays or found.size == found.block or weights & self._fixed:
            return None
        name = (found.made_by or found.read_by)[0]
        entries = tuple(dict.fromkeys(found.entries))
        return Units(name, found.size, found.block, entries)

    def _followed(self, node: fx.Node) -> _Value | None:
        """The value of a node, or None for an operation that is not known."""
        if node.op == "call_module":
            path = str(node.target)
            return self._module(node, path, self._modules[path])
        name = node.target if isinstance(node.target, str) else name_of(node.target)
        if name in JOINS:
            return self._joined(node)
        source = self._only(node)
        if source is None or node.kwargs.get("return_indices"):
            return None
        pooled = name.startswith(SPATIAL) and source.space > 0
        if name in ELEMENTWISE_NAMES or pooled:
            return source
        if name == "mean" and means_over_space(node, source.space):
            return _Value(source.group, _FEATURES)
        return _flattened(source) if flattens_all(node, name) else None

    def _module(self, node: fx.Node, path: str, layer: nn.Module) -> _Value | None:
        lone = f"{path}.weight" in self._parameters  # and not computed of others
        if isinstance(layer, CONVS) and lone:
            return self._conv(layer, path, self._source(node))
        if type(layer) is nn.Linear and lone:
            return self._linear(layer, path, self._source(node))
        source = self._only(node)
        if source is None:
            return None
        if isinstance(layer, NORMS):
            return self._norm(layer, path, source)
        pooled = isinstance(layer, POOLS) and source.space > 0
        if isinstance(layer, ELEMENTWISE) or pooled:
            return source
        whole = isinstance(layer, nn.Flatten) and (layer.start_dim, layer.end_dim)
        return _flattened(source) if whole == (1, -1) else None

    def _norm(self, layer: Any, path: str, source: _Value) -> _Value | None:
        group = source.group.root()
        size = getattr(layer, "num_features", getattr(layer, "num_channels", 0))
        if size != group.size:
            return None
        together = size // getattr(layer, "num_groups", size)
        group.block = lcm(group.block, together)
        state = layer.state_dict().items()
        group.entries += [f"{path}.{n}" for n, t in state if t.ndim]
        return source

    def _conv(self, layer: Any, path: str, source: _Value | None) -> _Value | None:
        space = len(layer.kernel_size)
        if type(layer) not in CONVS or (source is not None and source.space != space):
            return None
        weight, count = f"{path}.weight", layer.out_channels
        if layer.groups == 1:
            self._read(weight, source)
            group = _Group(count)
        elif source is not None and layer.groups == layer.in_channels == count:
            group = source.group.root()  # depth-wise: a unit goes through by itself
        else:  # its columns are those of one group only
            if source is not None:
                source.group.root().stays = True
            group = _Group(count, stays=True)
        return self._written(weight, layer, path, group, space)

    def _linear(
        self, layer: nn.Linear, path: str, source: _Value | None
    ) -> _Value | None:
        if source is not None:
            size = source.group.root().size
            rest = (
                layer.in_features % size
                if source.space == _FLAT
                else (layer.in_features - size)
            )
            if source.space > 0 or rest:  # its inputs are not the units
                return None
        weight = f"{path}.weight"
        self._read(weight, source)
        group = _Group(layer.out_features)
        return self._written(weight, layer, path, group, _FEATURES)

    def _written(
        self, weight: str, layer: Any, path: str, group: _Group, space: int
    ) -> _Value:
        if weight in self._makes:  # a layer that is called twice
            group = self._join(group, self._makes[weight])
        self._makes[weight] = group
        group.made_by.append(weight)
        if layer.bias is not None:
            group.entries.append(f"{path}.bias")
        if weight not in self._maskable:
            group.entries.append(weight)
        return _Value(group, space)

    def _read(self, weight: str, source: _Value | None) -> None:
        if source is None:
            if weight in self._reads:
                self._reads[weight].root().stays = True
            self._reads[weight] = _Group(1, stays=True)
            return
        group = source.group.root()
        if weight not in self._maskable:
            group.stays = True
        if weight in self._reads:
            group = self._join(group, self._reads[weight])
        self._reads[weight] = group
        group.read_by.append(weight)

    def _join(self, one: _Group, other: _Group) -> _Group:
        one, other = one.root(), other.root()
        if one is other:
            return one
        one.stays |= other.stays or one.size != other.size
        one.block = lcm(one.block, other.block)
        one.made_by += other.made_by
        one.read_by += other.read_by
        one.entries += other.entries
        other.joined = one
        return one

    def _joined(self, node: fx.Node) -> _Value | None:
        """Units that are added to each other are cut together."""
        inputs = node.all_input_nodes
        values = [self._values.get(n) for n in inputs]
        found = [v for v in values if v is not None]
        if len(found) != len(inputs) or node.kwargs:
            return None
        if len({v.space for v in found}) != 1:
            return None
        group = found[0].group
        for value in found[1:]:
            group = self._join(group, value.group)
        return _Value(group, found[0].space)

    def _only(self, node: fx.Node) -> _Value | None:
        """The value that a node takes where it takes no other that has units."""
        count = sum(n in self._values for n in node.all_input_nodes)
        return self._source(node) if count == 1 else None

    def _source(self, node: fx.Node) -> _Value | None:
        first = node.args[0] if node.args else node.kwargs.get("input")
        return self._values.get(first) if isinstance(first, fx.Node) else None

    def _keep(self, nodes: Iterable[fx.Node]) -> None:
        for node in nodes:
            if node in self._values:
                self._values[node].group.root().stays = True


def _is_shape(node: fx.Node) -> bool:
    if node.op == "call_method":
        return node.target in {"size", "dim"}
    return node.target is getattr and node.args[1] in {"shape", "ndim"}


def _flattened(source: _Value) -> _Value:
    return _Value(source.group, _FLAT) if source.space else source
