"""Count of one training step of a model, operator by operator."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from edge_sdk.errors import TaskError
from edge_sdk.tasks.example_inputs import inputs_without_data
from edge_sdk.tasks.trial_step import OperatorWatch, tensors_of
from edge_sdk.tasks.user_errors import told
from edge_sdk.torch_modules.weight_norm import directions_in

__all__ = ["LARGE", "StepTrace", "trace_step"]

# Batch norm cannot train on one example; two sizes tell what grows with the batch.
SMALL, LARGE = 2, 4
_MULTIPLIES = frozenset(
    {"aten::addmm", "aten::mm", "aten::bmm", "aten::mkldnn_rnn_layer"}
)
# Operators that compute nothing: they only say where a tensor is, or read one number.
_FREE = frozenset({"aten::detach", "aten::_local_scalar_dense", "aten::is_nonzero"})


@dataclass(frozen=True, slots=True)
class StepTrace:
    """Forward and backward pass; the optimizer and the mask are not in it.

    Attributes:
        macs: Weight name -> multiply-accumulates of one example's forward pass, for
            the weights of convolutions, linear and recurrent layers that take part;
            of an embedding, the values that are looked up.
        operators: Operator calls of a step, whatever the batch.
        example_bytes: Bytes that operators read and write per example.
        kernel_bytes: Of these, what convolutions and linear layers do.
        norm_bytes: Of these, what normalisations do.
        saved_bytes: Bytes kept per example from the forward to the backward pass.
        activations: Elements that convolutions and linear layers put out per example.
        compares: Elements that max pooling looks at per example.
    """

    macs: dict[str, int]
    operators: int
    example_bytes: int
    kernel_bytes: int
    norm_bytes: int
    saved_bytes: int
    activations: int
    compares: int


def trace_step(
    model: nn.Module,
    shape: tuple[int, ...],
    *,
    name: str = "",
    stated: Callable[[int], torch.Tensor] | None = None,
    prepare: Callable[[torch.Tensor], torch.Tensor] | None = None,
    examples: torch.Tensor | None = None,
) -> StepTrace:
    """Runs two small batches through the model and back, and counts.

    Args:
        model: A fresh model; its buffers change.
        shape: Shape of one prepared example.
        name: The task's, for messages.
        stated: The task's `example_inputs`.
        prepare: The task's.
        examples: Prepared inputs of the model's dtype; without them what is stated, or
            what the model is found to take. The counts depend on dtypes, not on values.

    Raises:
        TaskError: If the model cannot run forward and backward on such a batch.
    """
    model.train()
    name = name or type(model).__name__
    if examples is None:
        examples = inputs_without_data(
            name, model, shape, LARGE, stated=stated, prepare=prepare
        )
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # nothing here is worth a thread; on a busy machine they
    try:  # spin: ten seconds instead of one
        with torch.random.fork_rng(devices=[]):
            small, large = (
                _run(model, _some(examples, batch)) for batch in (SMALL, LARGE)
            )
    finally:
        torch.set_num_threads(threads)
    step = LARGE - SMALL
    return StepTrace(
        macs=small.macs,
        operators=small.operators,
        example_bytes=max(0, large.bytes - small.bytes) // step,
        kernel_bytes=max(0, large.kernel_bytes - small.kernel_bytes) // step,
        norm_bytes=max(0, large.norm_bytes - small.norm_bytes) // step,
        saved_bytes=max(0, large.saved - small.saved) // step,
        activations=small.activations // SMALL,
        compares=small.compares // SMALL,
    )


class _Counter:
    """Counts what passes below autograd: forward and backward alike."""

    def __init__(self, model: nn.Module, batch: int) -> None:
        self._names = {p.data_ptr(): n for n, p in model.named_parameters()}
        self._directions = set(directions_in(model))
        self._made: list[torch.Tensor] = []  # whose addresses stay theirs
        self._batch = batch
        self.forward = True
        self.macs: dict[str, int] = {}
        self.operators = self.bytes = self.saved = self.compares = 0
        self.activations = self.kernel_bytes = self.norm_bytes = 0

    def saw(self, schema: Any, args: Any, kwargs: Any, out: Any) -> None:
        """Add an operator to the counts."""
        name, read, written = schema.name, tensors_of((args, kwargs)), tensors_of(out)
        held = {_storage(tensor) for tensor in read}
        fresh = [tensor for tensor in written if _storage(tensor) not in held]
        if name in _FREE or (not fresh and not schema.is_mutable):
            return
        self.operators += 1
        moved = sum(t.numel() * t.element_size() for t in (*read, *fresh))
        self.bytes += moved
        if _multiplies(name):
            self.kernel_bytes += moved
        elif "norm" in name:
            self.norm_bytes += moved
        self._note(name, read, fresh, args)

    def _note(
        self,
        name: str,
        read: list[torch.Tensor],
        fresh: list[torch.Tensor],
        args: tuple[Any, ...],
    ) -> None:
        if not self.forward or not fresh:
            return
        if "max_pool" in name:
            window = args[1] if len(args) > 1 else [1]
            self.compares += fresh[0].numel() * math.prod(window)
        for tensor in read:
            weight = self._names.get(tensor.data_ptr())
            if weight is None or tensor.dim() < 2:
                continue
            if weight in self._directions and fresh[0].shape == tensor.shape:
                self._names[fresh[0].data_ptr()] = weight  # the weight made of it
                self._made.append(fresh[0])
            macs = self._macs(name, tensor, read[0], fresh[0], args)
            if macs:
                self.macs[weight] = self.macs.get(weight, 0) + macs
            self.activations += fresh[0].numel() if _multiplies(name) else 0

    def _macs(
        self,
        name: str,
        weight: torch.Tensor,
        inputs: torch.Tensor,
        out: torch.Tensor,
        args: tuple[Any, ...],
    ) -> int:
        """Multiply-accumulates of one example in an operator that reads a weight."""
        if name == "aten::embedding":
            return out.numel() // self._batch
        if not _multiplies(name):
            return 0
        # A convolution's weight starts with its output channels, a transposed one's
        # with its input channels; a linear one comes transposed. A recurrent layer's
        # gates are several to each value of its output.
        if name == "aten::convolution" and args[6]:
            uses = inputs.numel() // weight.shape[0]
        elif "conv" in name:
            uses = out.numel() // weight.shape[0]
        elif name == "aten::mkldnn_rnn_layer":
            uses = out.numel() // out.shape[-1]
        else:
            uses = out.numel() // weight.shape[-1]
        return weight.numel() * (uses // self._batch)


def _some(examples: torch.Tensor, count: int) -> torch.Tensor:
    """So many of them, in turns where they are fewer."""
    return examples[torch.arange(count) % len(examples)]


def _run(model: nn.Module, inputs: torch.Tensor) -> _Counter:
    counter = _Counter(model, len(inputs))
    watch = OperatorWatch(counter.saw)
    saved: dict[int, int] = {}
    kept: list[torch.Tensor] = []  # alive to the end, so that no storage is reused

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor)
        saved[_storage(tensor)] = tensor.untyped_storage().nbytes()
        return tensor

    model.zero_grad(set_to_none=True)
    try:
        with torch.autograd.graph.saved_tensors_hooks(pack, _same), watch:
            torch.zeros(inputs.shape, dtype=inputs.dtype)  # a step makes its batch, too
            outputs = [t for t in tensors_of(model(inputs)) if t.requires_grad]
            counter.forward = False
            torch.autograd.backward([out.sum() for out in outputs])
    except (Exception, SystemExit) as error:
        raise TaskError(
            f"{type(model).__name__} cannot train on a batch of shape "
            f"{tuple(inputs.shape)}: {told(error)}",
            remedy="Check the task's input_shape, and that the model returns a tensor, "
            "or a tuple or dictionary of tensors.",
        ) from error
    counter.saved = sum(saved.values())
    return counter


def _same(tensor: torch.Tensor) -> torch.Tensor:
    return tensor


def _multiplies(name: str) -> bool:
    return "conv" in name or name in _MULTIPLIES


def _storage(tensor: torch.Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)  # noqa: SLF001 - identity, no other way
