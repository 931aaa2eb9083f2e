"""A program's file opened under a mask, and what can be told of it without one."""

from __future__ import annotations

from edge_sdk.program.file import unpack_program
from edge_sdk.program.graph import TrainingProgram
from edge_sdk.program.model import ProgramModel
from edge_sdk.program.operations import groups_of_weights
from edge_sdk.sparse import LayerShape, Mask

__all__ = ["open_program", "program_layers"]


def open_program(
    file: bytes, mask: Mask, *, threads: int = 1, most_bytes: int = 0
) -> ProgramModel:
    """The model of a program's bytes under a mask; values are zero until `load`.

    Raises:
        EngineError: If the bytes are damaged or not sound, the mask does not fit, or
            there are no kernels.
    """
    return ProgramModel(
        unpack_program(file), mask, threads=threads, most_bytes=most_bytes
    )


def program_layers(program: TrainingProgram) -> tuple[LayerShape, ...]:
    """Weights that a mask can thin out, in the order of the program's parameters."""
    groups = groups_of_weights(program.training, program.slots)
    groups.update(program.computed)
    return tuple(
        LayerShape(
            program.parameters[at].name, program.parameters[at].shape, groups[at]
        )
        for at in sorted(groups)
        if at < len(program.parameters)  # no constant
    )
