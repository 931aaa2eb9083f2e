"""`capture`: a torch module and its loss as a program, by torch's own exporter.

The module is exported twice, with its loss in training mode and alone in evaluation
mode, so that code which asks for `self.training` is seen as it runs. torch.export
brings in torch's compiler: where programs are captured it costs seconds and memory
(ADR 40), and where they run it is not needed.
"""

from __future__ import annotations

import threading
import warnings
from collections import OrderedDict, namedtuple
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import fx, nn
from torch._dynamo.exc import UserError
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode

from edge_sdk.errors import EngineError, a_type
from edge_sdk.program.capture.call import Node, begins_at, line_of
from edge_sdk.program.capture.calls import emit
from edge_sdk.program.capture.constants import Constants
from edge_sdk.program.capture.context import Builder
from edge_sdk.program.capture.layout import PLAIN
from edge_sdk.program.capture.limits import check_layers, known_limit, quiet_torch
from edge_sdk.program.capture.restated import WithoutChecks, unchecked_distributions
from edge_sdk.program.capture.steps import lone_loss
from edge_sdk.program.check import check
from edge_sdk.program.graph import Constant, Graph, Parameter, TrainingProgram
from edge_sdk.program.operations import groups_of_weights
from edge_sdk.torch_modules.maskable import maskable_weights

__all__ = ["capture"]

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
_OLDEST = (2, 6)
_MOST_WORDS = 200  # of torch's own message
_EXPORTING = threading.Lock()  # torch.export fails in a thread while another exports
_ROWS_OF = (tuple, list, namedtuple)  # noqa: PYI024 - torch's name of the kind
_OF_VALUES = (GuardOnDataDependentSymNode, UserError)


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
    check_layers(model)
    state = model.state_dict(keep_vars=True)
    own = dict(model.named_parameters(remove_duplicate=False))
    parameters = tuple(_parameter(n, t, own.get(n)) for n, t in state.items())
    names, entries = list(state), [id(entry) for entry in state.values()]
    places = {n: entries.index(e) for n, e in zip(names, entries, strict=True)}
    shared = tuple((at, places[n]) for at, n in enumerate(names) if places[n] != at)
    held: list[Constant] = []
    was_training = {m: m.training for m in model.modules()}
    try:
        model.train()
        both = (inputs, targets)
        training, _ = _graph(_WithLoss(model, loss), both, places, held)
        model.eval()
        evaluation, returns = _graph(_Alone(model), (inputs,), places, held)
    finally:
        for module, mode in was_training.items():
            module.training = mode
    read = {p for o in training.operations for p in o.parameters if p >= 0}
    if not any(at in read and p.trained for at, p in enumerate(parameters)):
        raise EngineError(
            "no parameter that trains has a part in the task's loss",
            remedy="Compute the loss from the predictions that it is given.",
        )
    program = TrainingProgram(
        *(parameters, training, evaluation, tuple(held), shared, returns)
    )
    program = replace(program, computed=_computed(model, program, places))
    check(program)
    return program


def _computed(
    model: nn.Module, program: TrainingProgram, places: dict[str, int]
) -> tuple[tuple[int, int], ...]:
    """The weights of layers that a mask may act on and no operation has as its own."""
    own = groups_of_weights(program.training, program.slots)
    groups = {
        places[name]: getattr(layer, "groups", 1)
        for name, layer in maskable_weights(model)
        if name in places
    }
    return tuple((at, n) for at, n in sorted(groups.items()) if own.get(at) != n)


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
    module: nn.Module,
    batch: tuple[torch.Tensor, ...],
    places: dict[str, int],
    held: list[Constant],
) -> tuple[Graph, tuple[str, ...]]:
    """The graph of a module, and the names of what it returns."""
    exported = _exported(module, batch)
    signature = exported.graph_signature
    named = {
        **signature.inputs_to_parameters,
        **signature.inputs_to_buffers,
        **signature.inputs_to_lifted_tensor_constants,
    }
    constants = Constants(len(places), held)
    trains = isinstance(module, _WithLoss)
    loss = begins_at(module.loss) if isinstance(module, _WithLoss) else ""
    builder = Builder(len(batch[0]), {}, "model", constants, trains, loss)
    inputs: list[int] = []
    outputs: tuple[int, ...] = ()
    for node in exported.graph.nodes:
        own = named.get(node.name, "")
        if node.op == "call_function":
            emit(builder, node)
        elif node.op == "output":
            if trains:
                _check_loss(node)
            outputs = _returned(builder, node)
        elif own.removeprefix("model.") in places:
            builder.parameters[node] = places[own.removeprefix("model.")]
            if own in exported.state_dict and _fixed(node):
                constants.add(node, exported.state_dict[own])
        elif node.name in signature.user_inputs:
            inputs.append(builder.input(node))
        else:
            found = {**exported.state_dict, **exported.constants}.get(own)
            if isinstance(found, torch.Tensor):
                constants.add(node, found)
    returns = () if trains else _names(exported, len(outputs))
    return builder.graph(tuple(inputs), outputs), returns


def _fixed(node: fx.Node) -> bool:
    """Tell whether an entry holds places or a choice, which no step changes."""
    name = str(node.target)
    changed = any(
        str(getattr(u.target, "_opname", "")).endswith("_") for u in node.users
    )
    counts = name.endswith("num_batches_tracked")
    return not node.meta["val"].dtype.is_floating_point and not changed and not counts


def _names(exported: Any, count: int) -> tuple[str, ...]:
    """Names of so many predictions, as `TrainingProgram.returns` has them."""
    told = exported.call_spec.out_spec
    names: tuple[str, ...] = ("",) * count if told.type in _ROWS_OF else ()
    if told.type in {dict, OrderedDict}:
        names = tuple(told.context)
    named = all(isinstance(n, str) for n in names) and len(set(names) - {""}) == count
    lone = told.num_nodes == 1 == count
    flat = told.num_nodes == told.num_leaves + 1 == count + 1
    if not lone and not (flat and len(names) == count and (named or not any(names))):
        raise EngineError(
            "the model returns neither a tensor of the batch, nor a tuple or a dict of "
            "such tensors",
            remedy="Return what the loss needs, without None and lists within lists; "
            "until then the torch engine trains this model.",
        )
    return names


def _check_loss(node: fx.Node) -> None:
    """Refuses a loss that is not one number."""
    found: list[Any] = list(node.args[0])  # type: ignore[arg-type]
    value = found[0].meta.get("val") if isinstance(found[0], fx.Node) else found[0]
    if len(found) > 1:
        value = tuple(found)
    elif isinstance(value, torch.Tensor) and value.numel() == 1:
        return
    shape = getattr(value, "shape", None)
    what = a_type(value) if shape is None else f"a tensor {tuple(shape)}"
    raise EngineError(
        f"the task's loss returns {what}, not one number",
        remedy="Return the mean over the batch from the task's loss.",
    )


def _returned(builder: Builder, node: fx.Node) -> tuple[int, ...]:
    """Tensors that go outside; a sum of losses gives each loss its factor."""
    found: list[fx.Node] = [n for n in node.args[0] if isinstance(n, fx.Node)]  # type: ignore[union-attr]
    for each in found if builder.trains else ():
        if each in builder.place and each not in builder.losses.scalars:
            lone_loss(builder, Node(each, {}, ()), each)
    for each in found if not builder.trains else ():
        if each in builder.spectra:
            raise builder.refused(
                Node(each, {}, ()), "predictions are complex: return abs, real, imag "
                "or view_as_real of them",
            )  # fmt: skip
        if builder.layouts.get(each, PLAIN) != PLAIN:
            raise builder.refused(
                Node(each, {}, ()), "the batch is not the first axis of the predictions"
            )
    for each in found:
        if each in builder.losses.scalars:
            builder.finish(Node(each, {}, ()), builder.losses.scalars[each])
    return (
        ()
        if builder.trains
        else tuple(builder.place[n] for n in found if n in builder.place)
    )


def _exported(module: nn.Module, batch: tuple[torch.Tensor, ...]) -> Any:
    try:
        with (
            _EXPORTING,
            warnings.catch_warnings(),
            torch.random.fork_rng(devices=[]),
            quiet_torch(),
            WithoutChecks(len(batch[0])),
            unchecked_distributions(),
        ):
            warnings.simplefilter("ignore")
            return torch.export.export(module, batch)
    except Exception as error:
        place = line_of(error)
        at = f" ({place})" if place else ""
        first = str(error).strip().partition("\n")[0]
        why = f"{type(error).__name__}: {first[:_MOST_WORDS]}"
        if known := known_limit(error):
            raise EngineError(
                f"the model cannot be exported{at}: {known[0]}", remedy=known[1]
            ) from error
        if isinstance(error, _OF_VALUES) or "data-dependent" in str(error):
            why = "its control flow, or a shape, depends on values"
        raise EngineError(
            f"the model cannot be exported{at}: {why}",
            remedy="The torch engine trains this model; a program needs shapes and "
            "control flow that do not depend on values.",
        ) from error
