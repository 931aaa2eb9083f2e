"""Damage of a compiled library, found before it is loaded.

Loading a file that ends too soon kills the process: its pages beyond the end cannot be
read. So its checksum is compared first; a library without one, which a packager has
stripped or an older version has built, must at least be whole.
"""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

from edge_sdk.kernels.build import SEAL, this_machine

__all__ = ["damage"]

_ELF64_LE = b"\x7fELF\x02\x01"
_MACHINES = {"x86_64": 62, "aarch64": 183}
# e_machine, e_phoff, e_shoff, e_phentsize, e_phnum, e_shentsize, e_shnum, e_shstrndx
_HEADER = struct.Struct("<18xH12xQQ6xHHHHH")
_STRINGS = 3  # type of the section that holds the sections' names
_CHECKSUM = 4  # bytes


def damage(path: Path) -> str:
    """The reason not to load a library; empty if there is none.

    Args:
        path: Something is there; it may be of any kind.
    """
    if not path.is_file():
        return "is no file"
    try:
        found = path.read_bytes()
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    content, checksum = found[:-_CHECKSUM], found[-_CHECKSUM:]
    own = zlib.crc32(content.removesuffix(SEAL)).to_bytes(_CHECKSUM, "little")
    if content.endswith(SEAL) and own != checksum:
        return "is damaged: its checksum is another"
    return _elf_damage(found)


def _elf_damage(found: bytes) -> str:
    """The reason by its ELF header; empty if the file is as that says."""
    if not found.startswith(_ELF64_LE) or len(found) < _HEADER.size:
        return "is damaged: it is no library" if found else "is empty"
    machine, programs, sections, program, count, section, last, names = (
        _HEADER.unpack_from(found)
    )
    if machine != _MACHINES.get(this_machine(), machine):
        return f"is for another processor than {this_machine()}"
    ends = programs + program * count, sections + section * max(last, names + 1)
    if len(found) < max(ends) or not section:
        return "is damaged: it ends too soon"
    at = sections + names * section
    if struct.unpack_from("<4xI", found, at) != (_STRINGS,):
        return "is damaged: its list of sections is lost"
    return ""
