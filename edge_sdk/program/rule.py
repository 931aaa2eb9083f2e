"""`Rule`: what an operation takes, gives, and keeps for its backward pass."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from edge_sdk.errors import EngineError
from edge_sdk.program.graph import Op, Shape

__all__ = ["Operands", "Rule", "none_of", "nothing"]


def nothing(_: Operands) -> tuple[int, ...]:
    """No sizes, no places: what most operations keep."""
    return ()


def none_of(_: Operands) -> bool:
    """No: most operations treat each sample by itself."""
    return False


@dataclass(frozen=True, slots=True)
class Operands:
    """Everything a rule needs to know of one operation.

    Attributes:
        operation: The operation itself.
        inputs: Shape of each input, per sample.
        outputs: Shape of each output, as the graph has it.
        parameters: Shape of each parameter; None where there is none.
        ints: Attributes by name.
    """

    operation: Op
    inputs: tuple[Shape, ...]
    outputs: tuple[Shape, ...]
    parameters: tuple[Shape | None, ...]
    ints: Mapping[str, int]

    def require(self, holds: bool, what: str) -> None:  # noqa: FBT001 - a condition
        """Refuses an operation whose operands do not fit.

        Raises:
            EngineError: If the condition does not hold; names layer and operation.
        """
        if not holds:
            raise EngineError(f"{self.operation.told()}: {what}")

    def image(self) -> tuple[int, int, int]:
        """(channels, height, width) of input 0; one with a length is one row high.

        Raises:
            EngineError: If it is neither.
        """
        x = self.inputs[0]
        wrong = f"takes (C, H, W) or (C, L) per sample, not {x}"
        self.require(len(x) in {2, 3}, wrong)
        return (x[0], 1, x[1]) if len(x) == 2 else (x[0], x[1], x[2])

    def convolved(self, rows: int, kernel: tuple[int, int]) -> Shape:
        """The shape of a convolution's output, by the geometry that its ints name.

        Args:
            rows: Output channels.
            kernel: (height, width).

        Raises:
            EngineError: If the geometry is odd or the kernel larger than its input.
        """
        out, at = [], self.ints
        for axis, size, reach in zip("hw", self.image()[1:], kernel, strict=True):
            stride, padding = at[f"stride_{axis}"], at[f"padding_{axis}"]
            dilation = at[f"dilation_{axis}"]
            self.require(stride >= 1 and padding >= 0 and dilation >= 1, "odd geometry")
            room = size + 2 * padding - dilation * (reach - 1) - 1
            self.require(room >= 0, "the kernel is larger than the padded input")
            out.append(room // stride + 1)
        return (rows, out[1]) if len(self.inputs[0]) == 2 else (rows, *out)


@dataclass(frozen=True, slots=True)
class Rule:
    """One row of the table.

    Attributes:
        inputs: How many tensors it takes, fewest and most.
        parameters: Names of its parameter places; one that ends in ``?`` may be empty.
        ints: Names of its whole attributes, in their order.
        reals: Names of its other attributes.
        shapes: What the output shapes must be; raises EngineError through
            `Operands.require`.
        arguments: The integers that the kernel's row in C++ takes.
        stash: Values per sample of each tensor that the backward pass needs beside
            inputs and outputs.
        reads_in: Inputs that the backward pass reads.
        reads_out: Outputs that it reads.
        reads_stash: Stash tensors that it reads; the others' memory is free after the
            forward pass.
        weight: Gives the pattern's shape (rows, columns, *kernel) and groups where
            parameter 0 is a weight that a mask may thin out.
        view: True where the output is the input's memory: nothing runs.
        passes: True where every input's gradient is the output's (a sum).
        mixes: True where a norm takes the batch's statistics; such a graph runs a batch
            whole unless statistics of its parts are accepted.
        whole: True where only the whole batch gives the result, such as a sum over it.
        loss: True where the result is the mean over the batch: there is no output.
        moves: Parameter places that the forward pass changes: running statistics.
        flat: True where the result has no gradient, such as that of a comparison.
    """

    inputs: tuple[int, int]
    shapes: Callable[[Operands], tuple[Shape, ...]]
    arguments: Callable[[Operands], tuple[int, ...]]
    parameters: tuple[str, ...] = ()
    ints: tuple[str, ...] = ()
    reals: tuple[str, ...] = ()
    stash: Callable[[Operands], tuple[int, ...]] = nothing
    reads_in: tuple[int, ...] = ()
    reads_out: Callable[[Operands], tuple[int, ...]] = nothing
    reads_stash: Callable[[Operands], tuple[int, ...]] | tuple[int, ...] = ()
    weight: Callable[[Operands], tuple[Shape, int]] | None = None
    view: bool = False
    passes: bool = False
    mixes: Callable[[Operands], bool] = none_of
    whole: Callable[[Operands], bool] = none_of
    loss: bool = False
    moves: Callable[[Operands], tuple[int, ...]] = nothing
    flat: bool = False

    def stash_read(self, call: Operands) -> tuple[int, ...]:
        """Stash tensors that the backward pass of one operation reads."""
        own = self.reads_stash
        return own(call) if callable(own) else own
