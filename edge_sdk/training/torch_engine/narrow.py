"""A model without the units that its mask cuts: the same function, smaller activations.

A mask by units leaves whole rows and columns of zeros. Computing them costs what a wide
layer costs, so the layers are made narrower: kept values stay in their canonical order,
and entries of cut units wait outside and go back as they came.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.func import functional_call

from edge_sdk.evaluation.metric import Metric
from edge_sdk.evaluation.tally import Tally
from edge_sdk.sparse import Boxes, LayerShape, Mask, Units
from edge_sdk.tasks.graph.units import with_units
from edge_sdk.tasks.layers import in_mode
from edge_sdk.tasks.task import Examples, Task
from edge_sdk.torch_modules.copying import copy_model
from edge_sdk.training.engine import TrainingModel, TrainingSession
from edge_sdk.wire.messages import Training

if TYPE_CHECKING:
    from edge_sdk.training.torch_engine.session import TorchModel

__all__ = ["NarrowedModel", "narrowed"]

_log = logging.getLogger(__name__)
_NORMS = ("num_features", "num_channels")
Shapes = dict[str, tuple[int, ...]]  # entry -> its narrower shape, where it has one


class NarrowedModel:
    """A `TrainingModel` whose layers have only the units that the mask keeps.

    Args:
        inner: On the narrower layers.
        mask: The whole mask.
        shapes: Entry to its narrower shape.

    Attributes:
        inner: The same.
    """

    def __init__(self, inner: TorchModel, mask: Mask, shapes: Shapes) -> None:
        self.inner, self._shapes, self.mask = inner, shapes, mask
        self.engine = inner.engine
        self.module = getattr(inner, "module", None)  # a program has none
        self.reason = f"{inner.reason}; without the units that the mask cuts"
        self._whole: dict[str, NDArray[Any]] = {}

    def __call__(self, inputs: torch.Tensor) -> torch.Tensor:
        """Predictions for a batch."""
        return self.inner(inputs)

    def session(
        self,
        task: Task,
        examples: Examples,
        plan: Training,
        *,
        micro_batch: int = 0,
        ghost_norm: bool = False,
    ) -> TrainingSession:
        """One task's training; see `TrainingModel.session`."""
        return self.inner.session(
            *(task, examples, plan), micro_batch=micro_batch, ghost_norm=ghost_norm
        )

    def parameters(self) -> Iterator[nn.Parameter]:
        """Everything an optimizer may change, without cut units."""
        return self.inner.parameters()

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """The same with their names; narrower than the entries of those names."""
        return self.inner.named_parameters()

    def kept(self) -> Iterator[nn.Parameter]:
        """Kept values, one flat parameter per masked layer."""
        return self.inner.kept()

    def train(self, mode: bool = True) -> object:  # noqa: FBT001, FBT002 - as in torch
        """Switches batch norm and dropout."""
        return self.inner.train(mode)

    def load(
        self,
        values: Mapping[str, NDArray[np.float32]],
        dense: Mapping[str, NDArray[Any]],
    ) -> None:
        """Takes over kept values and every dense entry; cut units' wait outside."""
        self.inner.load(values, {n: _cut(a, self._shapes, n) for n, a in dense.items()})
        self._whole = {n: np.array(dense[n]) for n in self._shapes if n in dense}

    def values(self) -> dict[str, NDArray[np.float32]]:
        """Kept values per masked layer, copied."""
        return self.inner.values()

    def tally(self, task: Task, examples: Examples, metrics: Sequence[Metric]) -> Tally:
        """Sums of the metrics, by the narrower model: its outputs are the same."""
        return self.inner.tally(task, examples, metrics)

    def dense(self) -> dict[str, NDArray[Any]]:
        """Every other entry, copied; of cut units what was loaded."""
        found = self.inner.dense()
        for name, whole in self._whole.items():
            full = whole.copy()
            full[_corner(self._shapes[name])] = found[name]
            found[name] = full
        return found


def narrowed(
    model: nn.Module,
    mask: Mask,
    layers: Sequence[LayerShape],
    boxes: Boxes,
    example: torch.Tensor,
    engine: Callable[[nn.Module, Mask], TrainingModel],
) -> TrainingModel:
    """The model under its mask on an engine, narrower where that is the same function.

    What is narrower is tried on an example against the whole model: a forward pass
    that counts on a width (a view of fixed size) gives something else, and keeps it.

    Args:
        model: Fresh; it may be changed.
        mask: Drawn in the boxes.
        layers: From `layers_of`.
        boxes: Of the mask's recipe; without any, the model stays as it is.
        example: A batch of inputs.
        engine: Puts a model and a mask on an engine.
    """
    if not boxes:
        return engine(model, mask)
    small = copy_model(model)
    try:
        shapes = _narrow(small, with_units(model, layers), boxes)
        inner = Mask({n: _cut(mask[n], shapes, n) for n in mask})
        same = inner.nnz == mask.nnz and _same(model, mask, small, inner, example)
    except (AttributeError, IndexError, KeyError, RuntimeError, ValueError) as error:
        _log.info("units that the mask cuts are computed all the same: %s", error)
        return engine(model, mask)
    if not same:
        _log.info(
            "units that the mask cuts are computed: the model counts on its width"
        )
        return engine(model, mask)
    return NarrowedModel(cast("TorchModel", engine(small, inner)), mask, shapes)


def _narrow(model: nn.Module, layers: Sequence[LayerShape], boxes: Boxes) -> Shapes:
    """Makes the layers narrower; returns the shapes of what has changed."""
    shapes: Shapes = {}
    state = {n: tuple(t.shape) for n, t in model.state_dict().items()}
    groups: dict[Units, int] = {}
    for layer in layers:
        rows, columns = boxes.get(layer.name, layer.shape[:2])
        shape = [*layer.shape]
        for axis, (units, kept) in enumerate(
            ((layer.outputs, rows), (layer.inputs, columns))
        ):
            if units is not None and kept < layer.shape[axis]:
                shape[axis] = kept
                groups[units] = kept * units.size // layer.shape[axis]
        if tuple(shape) != layer.shape:
            shapes[layer.name] = tuple(shape)
    for units, kept in groups.items():
        for entry in units.entries:
            shapes[entry] = (kept, *state[entry][1:])
    for path, module in model.named_modules():
        _resize(module, path, shapes)
    return shapes


def _resize(module: nn.Module, path: str, shapes: Shapes) -> None:
    """Cuts one layer's parameters and buffers, and says so in its attributes."""
    head = f"{path}." if path else ""
    own: dict[str, torch.Tensor] = {
        **dict(module.named_parameters(recurse=False)),
        **dict(module.named_buffers(recurse=False)),
    }
    changed = {n: shapes[head + n] for n in own if head + n in shapes}
    for name, shape in changed.items():
        part = own[name].detach()[_corner(shape)].clone()
        if isinstance(own[name], nn.Parameter):
            part = nn.Parameter(part, requires_grad=own[name].requires_grad)
        setattr(module, name, part)
    if "weight" not in changed:
        return
    layer: Any = module
    rows, whole = changed["weight"][0], len(own["weight"])
    for name in _NORMS:
        if hasattr(layer, name):
            if hasattr(layer, "num_groups"):
                layer.num_groups = layer.num_groups * rows // whole
            setattr(layer, name, rows)
    if isinstance(layer, nn.Linear):
        layer.out_features, layer.in_features = layer.weight.shape
    elif hasattr(layer, "out_channels"):
        depthwise = layer.groups > 1
        layer.out_channels = rows
        layer.groups = rows if depthwise else 1
        layer.in_channels = layer.weight.shape[1] * layer.groups


def _same(
    whole: nn.Module, mask: Mask, small: nn.Module, inner: Mask, example: torch.Tensor
) -> bool:
    """True if both give the same in evaluation mode, at the weights they have."""
    outputs = []
    for model, own in ((whole, mask), (small, inner)):
        weights = {
            n: model.get_parameter(n).detach() * torch.from_numpy(np.array(own[n]))
            for n in own
        }
        with torch.no_grad(), in_mode(model, training=False):
            outputs.append(functional_call(model, weights, (example[:2],)))
    one, other = outputs
    return one.shape == other.shape and torch.allclose(one, other, 1e-3, 1e-4)


def _cut(array: NDArray[Any], shapes: Shapes, name: str) -> NDArray[Any]:
    return array[_corner(shapes[name])] if name in shapes else array


def _corner(shape: Sequence[int]) -> tuple[slice, ...]:
    return tuple(slice(0, n) for n in shape)
