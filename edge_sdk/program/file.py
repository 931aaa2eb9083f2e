"""A program as bytes: magic, version, length, SHA-256, and the program in msgpack.

Rule 1. The same program gives the same bytes.
Rule 2. New fields come last and with a default; a change that an older reader would
        misunderstand takes the next version.
Rule 3. Bytes are a stranger's: everything is checked before a program comes out.
"""

from __future__ import annotations

import hashlib
import struct
from typing import Final

import msgspec

from edge_sdk.errors import EngineError
from edge_sdk.program.check import check
from edge_sdk.program.graph import TrainingProgram

__all__ = ["MOST_BYTES", "pack_program", "unpack_program"]

_MAGIC: Final = b"FLEPROG\n"
# The second where parameters have two names, the third where there are several
# predictions, or one in a tuple or a dict.
_PLAIN, _SHARED, _SEVERAL = 1, 2, 3
_HEAD: Final = struct.Struct("<8sII32s")
MOST_BYTES: Final = 16 << 20
_REMEDY: Final = "Restart the coordinator: it checks its copy, and makes it again."
_UPDATE: Final = "Install the same version of flash-edge here as on the coordinator."


def pack_program(program: TrainingProgram) -> bytes:
    """The bytes of a program."""
    fields = {
        "parameters": program.parameters,
        "training": program.training,
        "evaluation": program.evaluation,
    }
    if program.constants:  # a later field: it is not there where it says nothing
        fields["constants"] = program.constants
    if program.shared:
        fields["shared"] = program.shared
    if program.returns:
        fields["returns"] = program.returns
    if program.computed:
        fields["computed"] = program.computed
    body = msgspec.msgpack.encode(fields)
    digest = hashlib.sha256(body).digest()
    version = _SHARED if program.shared else _PLAIN
    version = _SEVERAL if program.returns else version
    return _HEAD.pack(_MAGIC, version, len(body), digest) + body


def unpack_program(data: bytes) -> TrainingProgram:
    """The program of its bytes, checked.

    Raises:
        EngineError: If the bytes are damaged, of another version, or hold a program
            that is not sound.
    """
    if len(data) < _HEAD.size or len(data) > MOST_BYTES:
        raise _refused(f"it has {len(data)} bytes")
    magic, version, size, digest = _HEAD.unpack_from(data)
    if magic != _MAGIC:
        raise _refused("it is no program")
    if version not in {_PLAIN, _SHARED, _SEVERAL}:
        why = f"it has version {version}, this runtime reads 1 to {_SEVERAL}"
        raise _refused(why, _UPDATE)
    body = data[_HEAD.size :]
    if len(body) != size or hashlib.sha256(body).digest() != digest:
        raise _refused("it is damaged")
    try:
        program = msgspec.msgpack.decode(body, type=TrainingProgram)
    except (msgspec.MsgspecError, RecursionError, ValueError) as error:
        raise _refused(str(error), _UPDATE) from error
    check(program)
    return program


def _refused(why: str, remedy: str = _REMEDY) -> EngineError:
    return EngineError(f"the training program cannot be read: {why}", remedy=remedy)
