"""Turns a traced model into its sparse twin: which layers change, and how."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any, Final, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import fx, nn

from edge_sdk.errors import EngineError
from edge_sdk.sparse import Mask
from edge_sdk.tasks.parts.freeze import take_mode
from edge_sdk.training.copying import copy_model
from edge_sdk.training.sparse.fuse import fuse
from edge_sdk.training.sparse.graph import (
    flattens,
    is_elementwise,
    keep_unused,
    keeps_samples,
    mean_of,
    module_of,
    padding_of,
    pool_of,
    trace,
)
from edge_sdk.training.sparse.layout import Batch, FromBlocked, ToBlocked
from edge_sdk.training.sparse.modules import (
    BlockedMaxPool,
    BlockedMean,
    BlockedNorm,
    BlockedSpatial,
    MaskedConv2d,
    MaskedLinear,
    SparseConv2d,
    SparseLinear,
)
from edge_sdk.training.sparse.plans import PoolGeometry

__all__ = ["densify", "keep_activations", "sparsify"]

Layout = Literal["plain", "image", "flat"]
_CONVERTED: Final = (SparseConv2d, SparseLinear, MaskedConv2d, MaskedLinear)
_NORMS: Final = (nn.BatchNorm1d, nn.BatchNorm2d, nn.GroupNorm)


def sparsify(
    model: nn.Module, mask: Mask, *, dense_chains: Collection[str] = ()
) -> fx.GraphModule:
    """The model's sparse twin; the model itself is left alone.

    Args:
        model: On the CPU, float32 (or float64 with the tests' build).
        mask: Patterns by weight name, ``<layer>.weight``; other layers stay dense.
        dense_chains: Layers that run on torch's own kernels all the same, masked.

    Raises:
        EngineError: If the model cannot be traced, a masked layer is of a kind that has
            no sparse form, or no kernels are available; names the layer and the reason.
    """
    own = copy_model(model)
    twin = _Converter(trace(own), mask, dense_chains).run()
    keep_unused(twin, own)
    return twin


def densify(twin: nn.Module, like: nn.Module) -> nn.Module:
    """The ordinary model that a twin stands for.

    Args:
        twin: From `sparsify`.
        like: The model it was made from, or one of the same architecture.
    """
    state = dict(twin.state_dict())
    for name, layer in twin.named_modules():
        if isinstance(layer, _CONVERTED):
            state[f"{name}.weight"] = layer.dense_weight().detach()
    dense = copy_model(like)
    dense.load_state_dict(state)
    return dense


def keep_activations(twin: nn.Module, dtype: torch.dtype) -> None:
    """Chooses the dtype in which activations wait for the backward pass.

    Args:
        twin: From `sparsify`.
        dtype: torch.float32, or torch.bfloat16 for half the memory: forward results are
            the same, gradients carry its 8 bits of mantissa.

    Raises:
        EngineError: If it is another dtype.
    """
    if dtype not in {torch.float32, torch.bfloat16}:
        raise EngineError(f"activations are kept in float32 or bfloat16, not {dtype}")
    for layer in twin.modules():
        batch = getattr(layer, "batch", None)
        if isinstance(batch, Batch):
            batch.saved = dtype


class _Converter:
    """One walk over the graph, keeping the layout of every value."""

    def __init__(
        self, graph: fx.GraphModule, mask: Mask, dense_chains: Collection[str]
    ) -> None:
        self.graph, self.mask, self.dense_chains = graph, mask, dense_chains
        self.batch = Batch()
        self.layout: dict[fx.Node, Layout] = {}
        self.plain: dict[fx.Node, fx.Node] = {}
        self.blocked: dict[fx.Node, fx.Node] = {}
        self.patterns = self._patterns()
        self.count = 0

    def run(self) -> fx.GraphModule:
        for node in list(self.graph.graph.nodes):
            if node.op in {"placeholder", "get_attr"}:
                self.layout[node] = "plain"
            elif node.op == "output":
                self._use_plain(node)
            else:
                self.layout[node] = self._convert(node)
        self._check_all_converted()
        self.graph.graph.eliminate_dead_code()
        fuse(self.graph)
        self.graph.graph.lint()
        self.graph.recompile()
        return self.graph

    def _patterns(self) -> Mapping[str, NDArray[np.bool_]]:
        """Layer name to pattern, after checking that the model has that weight."""
        found = {}
        own = dict(self.graph.named_parameters())
        for name in self.mask:
            layer, _, attribute = name.rpartition(".")
            weight = own.get(name)
            if attribute != "weight" or weight is None:
                raise EngineError(f"layer {name}: the traced model calls no such layer")
            if tuple(weight.shape) != self.mask[name].shape:
                raise EngineError(
                    f"layer {name}: the mask is {self.mask[name].shape}, the weight "
                    f"{tuple(weight.shape)}"
                )
            found[layer] = self.mask[name]
        return found

    def _check_all_converted(self) -> None:
        for layer in self.patterns:
            module = self.graph.get_submodule(layer)
            if not isinstance(module, _CONVERTED):
                raise EngineError(
                    f"layer {layer}: {type(module).__name__} has no sparse form here "
                    f"({_why_not(module)})"
                )

    def _convert(self, node: fx.Node) -> Layout:
        """Rewrites one node and says what layout its value has."""
        handlers: tuple[Callable[[fx.Node], Layout | None], ...] = (
            self._layer,
            self._pool,
            self._mean,
            self._flatten,
            self._reshape,
            self._elementwise,
        )
        for handler in handlers:
            layout = handler(node)
            if layout is not None:
                return layout
        self._use_plain(node)
        return "plain"

    def _layer(self, node: fx.Node) -> Layout | None:  # noqa: PLR0911 - one per kind
        layer = module_of(self.graph, node)
        if layer is None or not node.args or not isinstance(node.args[0], fx.Node):
            return None
        name, source = str(node.target), node.args[0]
        if name in self.dense_chains:
            return self._dense_layer(node, layer, name)
        if isinstance(layer, SparseConv2d) or _convertible_conv(layer):
            if isinstance(layer, nn.Conv2d):
                self._replace(
                    name, SparseConv2d(layer, self.patterns.get(name), self.batch)
                )
            node.args = (self._blocked(source, "image"),)
            return "image"
        if isinstance(layer, SparseLinear) or name in self.patterns:
            if isinstance(layer, nn.Linear):
                self._replace(
                    name, SparseLinear(layer, self.patterns[name], self.batch)
                )
            elif not isinstance(layer, SparseLinear):
                return None
            node.args = (self._blocked(source, "flat"),)
            return "flat"
        if isinstance(layer, (BlockedNorm, *_NORMS)):
            return self._norm(node, layer, name, source)
        return None

    def _dense_layer(self, node: fx.Node, layer: nn.Module, name: str) -> Layout:
        """A layer that the policy leaves to torch."""
        if name in self.patterns and isinstance(layer, nn.Conv2d):
            self._replace(name, MaskedConv2d(layer, self.patterns[name]))
        elif name in self.patterns and isinstance(layer, nn.Linear):
            self._replace(name, MaskedLinear(layer, self.patterns[name]))
        self._use_plain(node)
        return "plain"

    def _norm(
        self, node: fx.Node, layer: nn.Module, name: str, source: fx.Node
    ) -> Layout | None:
        layout = self.layout[source]
        if isinstance(layer, _NORMS):
            if layout == "plain":
                return None
            self._replace(name, BlockedNorm(layer, self.batch))
            return layout
        if layout == "plain":  # the same layer, met on blocked values before
            node.args = (self._blocked(source, "image"),)
            return "image"
        return layout

    def _pool(self, node: fx.Node) -> Layout | None:
        found = pool_of(self.graph, node)
        if found is None or self.layout[found[0]] != "image":
            return None
        source, kind, arguments, keywords = found
        if kind == "max_pool2d":
            geometry = _pool_geometry(*arguments, **keywords)
            if geometry is None:
                return None
            self._call(node, BlockedMaxPool(geometry), source)
        elif kind == "adaptive_avg_pool2d" and (*arguments, *keywords.values())[0] in {
            1,
            (1, 1),
        }:
            self._call(node, BlockedMean(keepdim=True), source)
        else:
            self._call(node, BlockedSpatial(kind, *arguments, **keywords), source)
        return "image"

    def _mean(self, node: fx.Node) -> Layout | None:
        found = mean_of(node)
        if found is None or self.layout[found[0]] != "image":
            return None
        source, keepdim = found
        self._call(node, BlockedMean(keepdim=keepdim), source)
        return "image" if keepdim else "flat"

    def _flatten(self, node: fx.Node) -> Layout | None:
        source = flattens(self.graph, node)
        if source is None or self.layout[source] == "plain":
            return None
        if self.layout[source] == "flat":
            self._call(node, nn.Identity(), source)
        else:
            self._call(node, nn.Flatten(1, 3), source)
        return "flat"

    def _reshape(self, node: fx.Node) -> Layout | None:
        """Slices and zero padding of an image, as thin ResNets' shortcuts have them."""
        source = keeps_samples(node)
        if source is not None and self.layout[source] == "image":
            return "image"
        padded = padding_of(node)
        if padded is None or self.layout[padded[0]] != "image":
            return None
        node.args, node.kwargs = (padded[0], (0, 0, *padded[1])), {}  # lanes come last
        return "image"

    def _elementwise(self, node: fx.Node) -> Layout | None:
        if not is_elementwise(self.graph, node):
            return None
        layouts = {self.layout[n] for n in node.all_input_nodes}
        blocked = layouts - {"plain"}
        if len(blocked) != 1 or "plain" in layouts:
            return None
        return blocked.pop()

    def _call(self, node: fx.Node, module: nn.Module, source: fx.Node) -> None:
        """Makes the node call a new, stateless layer on one value."""
        name = f"_blocked_{self.count}"
        self.count += 1
        self.graph.add_submodule(name, module)
        node.op, node.target = "call_module", name
        node.args, node.kwargs = (source,), {}

    def _replace(self, name: str, module: nn.Module) -> None:
        take_mode(module, self.graph.get_submodule(name))
        parent, _, attribute = name.rpartition(".")
        setattr(self.graph.get_submodule(parent), attribute, module)

    def _blocked(self, node: fx.Node, layout: Layout) -> fx.Node:
        """The value in the blocked layout; converts a plain one once."""
        if self.layout[node] == layout:
            return node
        if self.layout[node] != "plain":
            node = self._plain(node)
        if node not in self.blocked:
            self.blocked[node] = self._after(node, ToBlocked(self.batch))
            self.layout[self.blocked[node]] = layout
        return self.blocked[node]

    def _plain(self, node: fx.Node) -> fx.Node:
        """The value in torch's own layout; converts a blocked one once."""
        if self.layout[node] == "plain":
            return node
        if node not in self.plain:
            self.plain[node] = self._after(node, FromBlocked(self.batch))
            self.layout[self.plain[node]] = "plain"
        return self.plain[node]

    def _after(self, node: fx.Node, module: nn.Module) -> fx.Node:
        name = f"_blocked_{self.count}"
        self.count += 1
        self.graph.add_submodule(name, module)
        with self.graph.graph.inserting_after(node):
            return self.graph.graph.call_module(name, (node,))

    def _use_plain(self, node: fx.Node) -> None:
        def swap(value: fx.Node) -> Any:
            return self._plain(value)

        node.args = fx.map_arg(node.args, swap)
        node.kwargs = fx.map_arg(node.kwargs, swap)


def _convertible_conv(layer: nn.Module) -> bool:
    return type(layer) is nn.Conv2d and not _why_not(layer)


def _why_not(layer: nn.Module) -> str:
    """The reason why a layer has no sparse form; empty if it has one."""
    if type(layer) is nn.Linear:
        return "its input is not (N, features) of a blocked value"
    if type(layer) is not nn.Conv2d:
        return "only Conv2d and Linear have one"
    if layer.padding_mode != "zeros":
        return f"padding_mode {layer.padding_mode!r} is not supported"
    if layer.padding == "same" and any(
        d * (k - 1) % 2 for k, d in zip(layer.kernel_size, layer.dilation, strict=True)
    ):
        return "padding 'same' is uneven for this kernel"
    return ""


def _pair(value: Any) -> tuple[int, int] | None:
    if isinstance(value, int):
        return value, value
    if isinstance(value, (tuple, list)) and len(value) in {1, 2}:
        values = [v for v in value if isinstance(v, int)]
        return (values[0], values[-1]) if len(values) == len(value) else None
    return None


def _pool_geometry(*arguments: Any, **keywords: Any) -> PoolGeometry | None:
    """A max pool that the kernels can run, or None; arguments as F.max_pool2d's."""
    order = (
        "kernel_size",
        "stride",
        "padding",
        "dilation",
        "ceil_mode",
        "return_indices",
    )
    given = {**dict(zip(order, arguments, strict=False)), **keywords}
    kernel, pad = _pair(given["kernel_size"]), _pair(given.get("padding", 0))
    stride = given.get("stride")
    step = kernel if stride is None or stride == [] else _pair(stride)
    if given.get("ceil_mode") or given.get("return_indices"):
        return None
    if _pair(given.get("dilation", 1)) != (1, 1):
        return None
    if kernel is None or pad is None or step is None or kernel[0] * kernel[1] >= 255:
        return None
    return PoolGeometry(kernel, step, pad)
