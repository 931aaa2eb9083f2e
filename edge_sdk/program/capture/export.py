"""`capture`: a torch module and its loss as a program, by torch's own exporter.

The module is exported twice, with its loss in training mode and alone in evaluation
mode, so that code which asks for `self.training` is seen as it runs. torch.export
brings in torch's compiler: where programs are captured it costs seconds and memory
(ADR 40), and where they run it is not needed.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import fx, nn

from edge_sdk.errors import EngineError
from edge_sdk.program.capture.context import Builder, Node
from edge_sdk.program.capture.table import ROWS
from edge_sdk.program.check import check
from edge_sdk.program.graph import Graph, Parameter, TrainingProgram

__all__ = ["capture"]

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
_OLDEST = (2, 6)


def capture(
    model: nn.Module, loss: Loss, inputs: torch.Tensor, targets: torch.Tensor
) -> TrainingProgram:
    """The program of a model and its loss; the model is left alone.

    Args:
        model: On the CPU, in float32.
        loss: (predictions, targets) -> scalar, the mean over the batch.
        inputs: An example batch as a training step gets it, of two at least.
        targets: Its targets.

    Raises:
        EngineError: If torch is too old, the model cannot be exported, or it holds an
            operation that programs have not; names layer, operation and source line.
    """
    _check_version()
    _check_batch(inputs, targets)
    state = model.state_dict(keep_vars=True)
    own = dict(model.named_parameters(remove_duplicate=False))
    parameters = tuple(_parameter(n, t, own.get(n)) for n, t in state.items())
    places = {p.name: at for at, p in enumerate(parameters)}
    was_training = {m: m.training for m in model.modules()}
    try:
        model.train()
        training = _graph(_WithLoss(model, loss), (inputs, targets), places)
        model.eval()
        evaluation = _graph(_Alone(model), (inputs,), places)
    finally:
        for module, mode in was_training.items():
            module.training = mode
    program = TrainingProgram(parameters, training, evaluation)
    check(program)
    return program


def _parameter(name: str, entry: torch.Tensor, own: nn.Parameter | None) -> Parameter:
    counts = name.rpartition(".")[2] == "num_batches_tracked" and not entry.dim()
    return Parameter(
        name,
        tuple(entry.shape),
        trained=own is not None and own.requires_grad,
        counter=counts,
        buffer=own is None,
    )


class _WithLoss(nn.Module):
    def __init__(self, model: nn.Module, loss: Loss) -> None:
        super().__init__()
        self.model, self.loss = model, loss

    def forward(self, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return self.loss(self.model(inputs), targets)


class _Alone(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.model(inputs)
        return found


def _check_version() -> None:
    major, minor = (int(n) for n in torch.__version__.split(".")[:2])
    if (major, minor) < _OLDEST:
        raise EngineError(
            f"torch {torch.__version__} is too old to capture a training program",
            remedy=f"Install torch {_OLDEST[0]}.{_OLDEST[1]} or newer where the model "
            "is compiled; until then the torch engine trains it.",
        )


def _check_batch(inputs: torch.Tensor, targets: torch.Tensor) -> None:
    if len(inputs) < 2 or len(inputs) != len(targets):
        raise EngineError(
            f"a program is captured on a batch of two at least, not {len(inputs)} "
            f"inputs and {len(targets)} targets"
        )


def _graph(
    module: nn.Module, batch: tuple[torch.Tensor, ...], places: dict[str, int]
) -> Graph:
    exported = _exported(module, batch)
    signature = exported.graph_signature
    named = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    own: dict[fx.Node, int] = {}
    nodes: list[fx.Node] = list(exported.graph.nodes)
    builder = Builder(len(batch[0]), own, "model")
    inputs: list[int] = []
    for node in nodes:
        if node.op != "placeholder":
            continue
        name = named.get(node.name, "").removeprefix("model.")
        if node.name in named and name in places:
            own[node] = places[name]
        elif node.name in signature.user_inputs:
            inputs.append(builder.input(node))
    outputs: tuple[int, ...] = ()
    for node in nodes:
        if node.op == "call_function":
            _emit(builder, node)
        elif node.op == "output":
            found = [n for n in node.args[0] if n in builder.place]  # type: ignore[union-attr]
            outputs = tuple(builder.place[n] for n in found)  # type: ignore[index]
    if isinstance(module, _Alone) and len(outputs) != 1:
        raise EngineError(
            f"the model returns {len(outputs)} tensors of the batch, not one",
            remedy="The torch engine trains this model.",
        )
    return builder.graph(tuple(inputs), outputs)


def _exported(module: nn.Module, batch: tuple[torch.Tensor, ...]) -> Any:
    try:
        with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
            warnings.simplefilter("ignore")
            return torch.export.export(module, batch)
    except Exception as error:
        first = str(error).strip().partition("\n")[0]
        raise EngineError(
            f"the model cannot be exported: {type(error).__name__}: {first}",
            remedy="The torch engine trains this model; a program needs shapes and "
            "control flow that do not depend on values.",
        ) from error


def _emit(builder: Builder, node: fx.Node) -> None:
    name = getattr(node.target, "_opname", getattr(node.target, "__name__", ""))
    call = Node(node, _arguments(node), _shape(node))
    first = next(iter(call.arguments.values()), None)
    in_place = name.endswith("_") and not name.endswith("__")
    if name == "add_" and first in builder.parameters:
        return  # a counter: the program's own affair
    row = ROWS.get(name[:-1] if in_place else name)
    if row is None:
        raise builder.refused(call, "programs have no such operation")
    if in_place and first in builder.place:
        _check_unread(builder, call, first)
    row(builder, call)


def _check_unread(builder: Builder, call: Node, changed: Any) -> None:
    """An in-place form is the plain one only if nobody reads the old value after it."""
    later = False
    for node in call.node.graph.nodes:
        if node is call.node:
            later = True
        elif later and changed in node.all_input_nodes:
            raise builder.refused(
                call, "a value that is changed in place is read later"
            )


def _arguments(node: fx.Node) -> dict[str, Any]:
    schema = getattr(node.target, "_schema", None)
    if schema is None:
        return {str(k): v for k, v in enumerate(node.args)}
    given = {**dict(zip((a.name for a in schema.arguments), node.args, strict=False)),
             **node.kwargs}  # fmt: skip
    return {
        argument.name: given.get(argument.name, argument.default_value)
        for argument in schema.arguments
    }


def _shape(node: fx.Node) -> tuple[int, ...]:
    value = node.meta.get("val")
    return tuple(value.shape) if isinstance(value, torch.Tensor) else ()
