"""`emit`: one call of torch's as operations, by its row or by smaller calls.

A call that has no row is taken apart as torch itself does it (einsum into permutations
and products of matrices); what has no row then is refused.
"""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx
from torch._ops import OpOverload
from torch.fx.experimental.proxy_tensor import make_fx

from edge_sdk.program.capture.context import Builder, Node
from edge_sdk.program.capture.in_place import change_in_place, note_view
from edge_sdk.program.capture.layout import PLAIN
from edge_sdk.program.capture.rows.losses.pair_sums import of_pairs
from edge_sdk.program.capture.rows.spectra.complex_numbers import of_complex
from edge_sdk.program.capture.steps import unary
from edge_sdk.program.capture.table import ROWS

__all__ = ["emit"]

_NO_GRAD = "wrap_with_set_grad_enabled"  # torch's name of `with torch.no_grad()`
# What leaves a loss, which is one number, what it is.
_PASSED = frozenset(
    ("mean", "sum", "clone", "alias", "contiguous", "to", "_to_copy", "squeeze", "view")
)


def emit(
    builder: Builder, node: fx.Node, env: dict[fx.Node, fx.Node] | None = None
) -> None:
    """Adds what a call stands for.

    Args:
        builder: Takes it.
        node: The call.
        env: Placeholder of a smaller graph -> what it stands for.

    Raises:
        EngineError: If programs have nothing for it; names layer and source line.
    """
    name = _name(node.target)
    env = env or {}
    call = Node(node, _arguments(node, env), _shape(node))
    first = next(iter(call.arguments.values()), None)
    in_place = name.endswith("_") and not name.endswith("__")
    if name == "add_" and first in builder.parameters and _counts(first):
        builder.parameters[node] = builder.parameters[first]
        return  # a counter: the program's own affair
    if not (node.users or in_place):
        return
    note_view(builder, call, name)
    if builder.constants.evaluated(node, name, lambda n: env.get(n, n)):
        return
    if first in builder.losses.scalars and name in _PASSED:
        builder.take(node, first)
    elif name == _NO_GRAD:
        _inlined(builder, call, env)
    elif any(n in builder.pairs for n in call.arguments.values() if _is_node(n)):
        of_pairs(builder, call, name)
    elif not of_complex(builder, call, name):
        _by_row(builder, call, name, env, in_place=in_place)


def _by_row(
    builder: Builder, call: Node, name: str, env: dict[fx.Node, fx.Node], *,
    in_place: bool,
) -> None:  # fmt: skip
    if in_place:
        change_in_place(builder, call, name[:-1])
    elif (row := ROWS.get(name)) is not None:
        try:
            row(builder, call)
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            why = f"a form of it that programs have not ({error!r})"
            raise builder.refused(call, why) from error
    elif not _taken_apart(builder, call, env):
        raise builder.refused(call, "programs have no such operation")


def _inlined(builder: Builder, call: Node, outer: dict[fx.Node, fx.Node]) -> None:
    """Emits the calls of a graph within one; nothing trains through its results."""
    enabled, graph, *given = call.node.args
    module: Any = call.node.graph.owning_module
    inner = getattr(module, str(getattr(graph, "target", ""))).graph
    env = dict(outer)
    outputs: Any = ()
    inputs = iter(given)
    before, builder.still = builder.still, builder.still or not enabled
    for node in inner.nodes:
        if node.op == "placeholder":
            own: Any = next(inputs)
            env[node] = outer.get(own, own)
        elif node.op == "output":
            outputs = node.args[0]
        elif node.op == "call_function":
            emit(builder, node, env)
    builder.still = before
    for user in call.node.users:
        if user.target is not operator.getitem:
            raise builder.refused(call, "a result that is read as a whole")
        own = outputs[user.args[1]]
        own = env.get(own, own)
        if enabled or own in builder.constants or own not in builder.place:
            builder.take(user, own)
            continue
        tensor, layout = builder.place[own], builder.layouts.get(own, PLAIN)
        stopped = unary(builder, Node(user, {}, ()), "stop", tensor)
        builder.put(Node(user, {}, ()), stopped, layout)


def _taken_apart(builder: Builder, call: Node, outer: dict[fx.Node, fx.Node]) -> bool:
    """Emits the smaller calls of one, if torch knows them; whether it does."""
    node: Any = call.node
    inputs = list(node.all_input_nodes)
    if not isinstance(node.target, OpOverload):
        return False

    def again(*tensors: torch.Tensor) -> Any:
        own = dict(zip(inputs, tensors, strict=True))
        return node.target(
            *fx.node.map_arg(node.args, own.__getitem__),
            **fx.node.map_arg(node.kwargs, own.__getitem__),
        )

    decompositions: Any = torch.export.default_decompositions()
    table = {op: how for op, how in decompositions.items() if _name(op) not in ROWS}
    try:
        shells = [_shell(n) for n in inputs]
        with torch.no_grad():
            graph = make_fx(again, decomposition_table=table)(*shells).graph
    except Exception:  # noqa: BLE001 - torch's own, of any kind: the call stays whole
        return False
    calls = [n for n in graph.nodes if n.op == "call_function"]
    if any(n.target == node.target for n in calls):
        return False
    holders = [n for n in graph.nodes if n.op == "placeholder"]
    env = {h: outer.get(n, n) for h, n in zip(holders, inputs, strict=True)}
    for each in calls:
        builder.instead[each] = builder.instead.get(node, node)
        emit(builder, each, env)
    (output,) = (n.args[0] for n in graph.nodes if n.op == "output")
    builder.take(node, env.get(output, output))
    return True


def _counts(node: Any) -> bool:
    """Tell whether a placeholder, counted up before or not, is a norm's batches."""
    while node.op != "placeholder":
        node = node.args[0]
    return str(node.target).endswith("num_batches_tracked")


def _is_node(value: Any) -> bool:
    return isinstance(value, fx.Node)


def _name(target: Any) -> str:
    """Of an operator, without its overload."""
    return str(getattr(target, "_opname", getattr(target, "__name__", "")))


def _shell(node: fx.Node) -> torch.Tensor:
    value = node.meta["val"]
    return torch.zeros(tuple(value.shape), dtype=value.dtype)


def _arguments(node: fx.Node, env: dict[fx.Node, fx.Node]) -> dict[str, Any]:
    def told(found: fx.Node) -> Any:
        return env.get(found, found)

    args = fx.node.map_arg(node.args, told)
    kwargs = fx.node.map_arg(node.kwargs, told)
    schema = getattr(node.target, "_schema", None)
    if schema is None:
        return {str(k): v for k, v in enumerate(args)}
    given = {**dict(zip((a.name for a in schema.arguments), args, strict=False)),
             **kwargs}  # fmt: skip
    return {
        argument.name: given.get(argument.name, argument.default_value)
        for argument in schema.arguments
    }


def _shape(node: fx.Node) -> tuple[int, ...]:
    value = node.meta.get("val")
    return tuple(value.shape) if isinstance(value, torch.Tensor) else ()
