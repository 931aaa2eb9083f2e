"""Meaning of a traced model's nodes for the blocked layout."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any, Final

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from torch import fx, nn

from edge_sdk.errors import EngineError
from edge_sdk.tasks.graph.tracing import trace_layers

__all__ = [
    "Add",
    "Mean",
    "Pool",
    "chains",
    "flattens",
    "is_add",
    "is_elementwise",
    "is_relu",
    "keep_unused",
    "keeps_samples",
    "mean_of",
    "module_of",
    "padding_of",
    "pool_of",
    "trace",
    "works_in_place",
]

Add = tuple[fx.Node, fx.Node]
Mean = tuple[fx.Node, bool]
Pool = tuple[fx.Node, str, tuple[Any, ...], dict[str, Any]]

# Elementwise, without parameters: right on any layout and on padded lanes.
_ELEMENTWISE_MODULES: Final = (
    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU,
    nn.Mish, nn.Hardswish, nn.Hardsigmoid, nn.Hardtanh, nn.Sigmoid, nn.Tanh,
    nn.Softplus, nn.Dropout, nn.Identity,
)  # fmt: skip
_ELEMENTWISE_FUNCTIONS: Final[frozenset[Callable[..., Any]]] = frozenset(
    {
        F.relu, F.relu_, F.relu6, F.leaky_relu, F.elu, F.selu, F.celu, F.gelu, F.silu,
        F.mish, F.hardswish, F.hardsigmoid, F.hardtanh, F.sigmoid, F.tanh, F.softplus,
        F.dropout,
        torch.relu, torch.relu_, torch.sigmoid, torch.tanh,
        operator.add, operator.iadd, operator.sub, operator.mul, operator.imul,
        operator.truediv, operator.neg, torch.add, torch.sub, torch.mul,
    }
)  # fmt: skip
_ELEMENTWISE_METHODS: Final = frozenset(
    {"relu", "relu_", "sigmoid", "tanh", "add", "add_", "sub", "mul", "mul_", "clone",
     "contiguous"}
)  # fmt: skip
_POOL_MODULES: Final = {
    nn.MaxPool2d: "max_pool2d",
    nn.AvgPool2d: "avg_pool2d",
    nn.AdaptiveAvgPool2d: "adaptive_avg_pool2d",
}
_POOL_NAMES: Final = frozenset(_POOL_MODULES.values())


def trace(model: nn.Module) -> fx.GraphModule:
    """The model as a graph of its layers, right in training and in evaluation.

    Tracing freezes ``self.training``, so the model is traced in both modes: functional
    dropout that follows the mode becomes a layer, and any other difference is refused.

    Raises:
        EngineError: If the model's Python cannot be traced; the message says why.
    """
    try:
        evaluating = trace_layers(model, training=False)
        training = trace_layers(model, training=True)
    except Exception as error:
        raise EngineError(
            f"{type(model).__name__}.forward cannot be traced: "
            f"{type(error).__name__}: {error}"
        ) from error
    graph = fx.GraphModule(model, training)
    graph.training = model.training
    _follow_mode(graph, evaluating)
    return graph


def keep_unused(graph: fx.GraphModule, model: nn.Module) -> None:
    """Gives a graph what the model holds and its forward never uses, by the same names.

    A traced graph has only what it calls. A counter in a buffer or a spare layer stays
    in the ``state_dict`` all the same, and travels with it.

    Args:
        graph: Traced from the model; its own entries stay.
        model: Whose parameters and persistent buffers it shall have.
    """
    have = graph.state_dict()
    parameters = dict(model.named_parameters(remove_duplicate=False))
    buffers = dict(model.named_buffers(remove_duplicate=False))
    for name in model.state_dict():
        if name in have or name not in parameters | buffers:
            continue
        path, _, last = name.rpartition(".")
        owner: nn.Module = graph
        for part in path.split(".") if path else ():
            if not hasattr(owner, part):
                owner.add_module(part, nn.Module())
            owner = getattr(owner, part)
        if name in parameters:
            owner.register_parameter(last, parameters[name])
        else:
            owner.register_buffer(last, buffers[name])


def _follow_mode(graph: fx.GraphModule, evaluating: fx.Graph) -> None:
    """Replaces functional dropout by a layer; see `trace`."""
    ours, theirs = list(graph.graph.nodes), list(evaluating.nodes)
    differ = EngineError(
        "the model's forward takes another path in training than in evaluation"
    )
    if len(ours) != len(theirs):
        raise differ
    for count, (node, other) in enumerate(zip(ours, theirs, strict=True)):
        if (node.op, node.target) != (other.op, other.target):
            raise differ
        if repr((node.args, node.kwargs)) == repr((other.args, other.kwargs)):
            continue
        if node.target is not F.dropout or not isinstance(node.args[0], fx.Node):
            raise differ
        p = node.kwargs.get("p", node.args[1] if len(node.args) > 1 else 0.5)
        if not isinstance(p, float):
            raise differ
        graph.add_submodule(f"_dropout_{count}", nn.Dropout(p))
        node.op, node.target = "call_module", f"_dropout_{count}"
        node.args, node.kwargs = (node.args[0],), {}


def chains(graph: fx.GraphModule) -> list[tuple[str, ...]]:
    """The names of conv and linear layers, cut where poolings and flattening stand.

    Activations are smallest there, so that is where changing layout costs least.
    """
    found: list[list[str]] = [[]]
    for node in graph.graph.nodes:
        cut = pool_of(graph, node) or mean_of(node) or flattens(graph, node) is not None
        if cut and found[-1]:
            found.append([])
        layer = module_of(graph, node)
        name = str(node.target)
        if isinstance(layer, (nn.Conv2d, nn.Linear)) and not any(
            name in c for c in found
        ):
            found[-1].append(name)
    return [tuple(chain) for chain in found if chain]


def module_of(graph: fx.GraphModule, node: fx.Node) -> nn.Module | None:
    """The layer a node calls, or None."""
    return graph.get_submodule(str(node.target)) if node.op == "call_module" else None


def is_elementwise(graph: fx.GraphModule, node: fx.Node) -> bool:
    """Return whether the node may run on blocked tensors as it is."""
    if node.op == "call_module":
        return isinstance(module_of(graph, node), _ELEMENTWISE_MODULES)
    if node.op == "call_function":
        return node.target in _ELEMENTWISE_FUNCTIONS
    return node.op == "call_method" and node.target in _ELEMENTWISE_METHODS


def is_relu(graph: fx.GraphModule, node: fx.Node) -> bool:
    """Return whether the node is a ReLU in any of its forms."""
    if node.op == "call_module":
        return isinstance(module_of(graph, node), nn.ReLU)
    if node.op == "call_function":
        return node.target in {F.relu, F.relu_, torch.relu, torch.relu_}
    return node.op == "call_method" and node.target in {"relu", "relu_"}


def works_in_place(graph: fx.GraphModule, node: fx.Node) -> bool:
    """Return whether a ReLU node overwrites its input."""
    layer = module_of(graph, node)
    if isinstance(layer, nn.ReLU):
        return bool(layer.inplace)
    if node.target in {F.relu_, torch.relu_, "relu_"}:
        return True
    return bool(node.kwargs.get("inplace") or (len(node.args) > 1 and node.args[1]))


def is_add(node: fx.Node) -> Add | None:
    """The two tensors that the node adds, or None."""
    functions = {operator.add, operator.iadd, torch.add}
    if not (
        (node.op == "call_function" and node.target in functions)
        or (node.op == "call_method" and node.target in {"add", "add_"})
    ):
        return None
    if len(node.args) != 2 or node.kwargs:
        return None
    a, b = node.args
    return (a, b) if isinstance(a, fx.Node) and isinstance(b, fx.Node) else None


def pool_of(graph: fx.GraphModule, node: fx.Node) -> Pool | None:
    """The input, kind, arguments and keywords of a pooling node, or None."""
    layer = module_of(graph, node)
    if layer is not None:
        kind = _POOL_MODULES.get(type(layer))
        if kind is None or not isinstance(node.args[0], fx.Node):
            return None
        return node.args[0], kind, (), _pool_keywords(layer)
    if node.op != "call_function" or getattr(node.target, "__name__", "") not in {
        *_POOL_NAMES,
        "boolean_dispatch",  # how torch names F.max_pool2d
    }:
        return None
    if node.target is not F.max_pool2d and node.target not in {
        F.avg_pool2d,
        F.adaptive_avg_pool2d,
        torch.max_pool2d,
    }:
        return None
    source = node.args[0] if node.args else node.kwargs.get("input")
    if not isinstance(source, fx.Node):
        return None
    kind = (
        "max_pool2d"
        if node.target in {F.max_pool2d, torch.max_pool2d}
        else str(getattr(node.target, "__name__", ""))
    )
    keywords = {k: v for k, v in node.kwargs.items() if k != "input"}
    return source, kind, tuple(node.args[1:]), keywords


def _pool_keywords(layer: nn.Module) -> dict[str, Any]:
    names = {
        nn.MaxPool2d: (
            "kernel_size", "stride", "padding", "dilation", "ceil_mode",
            "return_indices",
        ),
        nn.AvgPool2d: (
            "kernel_size", "stride", "padding", "ceil_mode", "count_include_pad",
            "divisor_override",
        ),
        nn.AdaptiveAvgPool2d: ("output_size",),
    }[type(layer)]  # fmt: skip
    return {name: getattr(layer, name) for name in names}


def flattens(graph: fx.GraphModule, node: fx.Node) -> fx.Node | None:
    """The image a node turns into (N, features), or None."""
    source = node.args[0] if node.args else None
    if not isinstance(source, fx.Node):
        return None
    layer = module_of(graph, node)
    if layer is not None:
        plain = isinstance(layer, nn.Flatten) and layer.start_dim == 1
        return source if plain and layer.end_dim in {-1, 3} else None
    if (node.op, node.target) in {
        ("call_function", torch.flatten),
        ("call_method", "flatten"),
    }:
        rest = [*node.args[1:], *node.kwargs.values()]
        return source if rest in ([1], [1, -1], [1, 3]) else None
    if node.op == "call_method" and node.target in {"view", "reshape"}:
        return source if _two_axes(node) else None
    return None


def _two_axes(node: fx.Node) -> bool:
    """Return whether a view is to (the batch, everything else)."""
    shape = node.args[1:]
    if len(shape) == 1 and isinstance(shape[0], (tuple, list)):
        shape = tuple(shape[0])
    if len(shape) != 2 or node.kwargs:
        return False
    first, second = shape
    if isinstance(first, fx.Node):
        return _is_batch_size(first) and isinstance(second, int)
    return isinstance(first, int) and first == -1 and isinstance(second, int)


def _is_batch_size(node: fx.Node) -> bool:
    """Return whether a node is x.size(0), x.size()[0] or x.shape[0]."""
    if node.op == "call_method":
        return node.target == "size" and node.args[1:] == (0,)
    if node.target is not operator.getitem or node.args[1] != 0:
        return False
    of = node.args[0]
    if not isinstance(of, fx.Node):
        return False
    if of.op == "call_method":
        return of.target == "size" and len(of.args) == 1
    return of.target is getattr and str(of.args[1]) == "shape"


def keeps_samples(node: fx.Node) -> fx.Node | None:
    """The image that a slice takes channels, rows and columns of; None if not one."""
    if node.target is not operator.getitem or not isinstance(node.args[0], fx.Node):
        return None
    parts = node.args[1]
    if not isinstance(parts, tuple) or not 1 <= len(parts) <= 4:
        return None
    plain = all(isinstance(p, slice) and not _holds_nodes(p) for p in parts)
    return node.args[0] if plain and parts[0] == slice(None) else None


def _holds_nodes(part: slice) -> bool:
    return any(isinstance(v, fx.Node) for v in (part.start, part.stop, part.step))


def padding_of(node: fx.Node) -> tuple[fx.Node, tuple[int, ...]] | None:
    """The image and amounts of a zero padding that leaves samples alone, or None."""
    if node.op != "call_function" or node.target is not F.pad:
        return None
    source = node.args[0]
    amounts = node.args[1] if len(node.args) > 1 else node.kwargs.get("pad")
    rest = {k: v for k, v in node.kwargs.items() if k != "pad"}
    zeros = {"mode": "constant", "value": None}, {"mode": "constant", "value": 0}
    if len(node.args) > 2 or (rest and rest not in zeros):
        return None
    if not isinstance(source, fx.Node) or not isinstance(amounts, (tuple, list)):
        return None
    numbers = tuple(a for a in amounts if isinstance(a, int))
    fits = len(numbers) == len(amounts) and len(numbers) <= 6
    return (source, numbers) if fits else None


def mean_of(node: fx.Node) -> Mean | None:
    """The image and keepdim of a mean over height and width, or None."""
    if (node.op, node.target) not in {
        ("call_function", torch.mean),
        ("call_method", "mean"),
    }:
        return None
    source = node.args[0] if node.args else None
    dims = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim")
    keep = node.args[2] if len(node.args) > 2 else node.kwargs.get("keepdim", False)
    if not isinstance(source, fx.Node) or not isinstance(dims, (tuple, list)):
        return None
    if len(dims) != 2 or not all(isinstance(d, int) for d in dims):
        return None
    axes = {int(d) % 4 for d in dims if isinstance(d, int)}
    return (source, keep is True) if axes == {2, 3} else None
