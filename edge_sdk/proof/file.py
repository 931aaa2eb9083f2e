"""A proof as one file: a ZIP whose members are stored as they are.

::

    records.jsonl        one record of the log per line, in order
    heads.jsonl          after each record: seq, head, signature, certificate
    leaves/NNNNNNNN.jsonl  all leaves of the tree that record N has the root of
    paths/NNNNNNNN.jsonl   in a proof for one device: its leaves, each with its path
    contents/SHA256      what records name by digest: settings, certificates
    updates/SHA256       devices' updates, where they are there
    models/SHA256        checkpoints that rounds start from
    run.json             what else is needed to make the aggregates again
    proof.json           table: federation, first and last head, digest of each member
    proof.sig            the coordinator's signature over proof.json
"""

from __future__ import annotations

import json
import re
import struct
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from edge_sdk.errors import StateError, disk_remedy
from edge_sdk.proof.chain import record_line, statement_text
from edge_sdk.wire.codec import Sign

__all__ = [
    "FORMAT",
    "SIGNATURE",
    "TABLE",
    "ProofFile",
    "read_proof",
    "table_of",
    "write_proof",
]

FORMAT = 1
TABLE, SIGNATURE = "proof.json", "proof.sig"
_DATE = (1980, 1, 1, 0, 0, 0)  # the first that a ZIP can name: equal logs, equal bytes
_NAME = re.compile(
    r"(records|heads)\.jsonl|(leaves|paths)/\d{8}\.jsonl|run\.json|proof\.(json|sig)"
    r"|(contents|updates|models)/[0-9a-f]{64}"
)
_LARGEST = 1 << 31  # bytes of one member


@dataclass(frozen=True)
class ProofFile:
    """The members of a proof, read when they are asked for.

    Attributes:
        members: Name to bytes.
    """

    members: Mapping[str, bytes]

    def lines(self, name: str) -> list[bytes]:
        """The lines of a member; none of one that is not there."""
        if name not in self.members:
            return []
        return self.members[name].removesuffix(b"\n").split(b"\n")

    def table(self) -> dict[str, Any]:
        """The table of contents.

        Raises:
            StateError: If there is none, or it is of another version.
        """
        try:
            table = json.loads(self.members[TABLE])
            version = table["format"]
        except (KeyError, TypeError, ValueError) as error:
            raise _no_proof("it has no table of contents that can be read") from error
        if version != FORMAT:
            raise StateError(
                f"the proof is of format {str(version)[:20]}; this version reads "
                f"{FORMAT}",
                remedy="Verify it with the version of flash-edge that wrote it.",
            )
        return dict(table)


class _Members(Mapping[str, bytes]):
    """The members of an open ZIP."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        self._archive = archive
        self._sizes: dict[str, int] = {}
        for one in archive.infolist():
            if one.filename in self._sizes:
                raise _no_proof(f"it has two members {one.filename[:80]!r}")
            if not _NAME.fullmatch(one.filename):
                raise _no_proof(f"no proof has a member {one.filename[:80]!r}")
            stored = one.compress_type == zipfile.ZIP_STORED
            if not stored or one.file_size != one.compress_size:
                raise _no_proof(f"member {one.filename} is compressed")
            if one.file_size > _LARGEST:
                raise _no_proof(f"member {one.filename} has {one.file_size} bytes")
            self._sizes[one.filename] = one.file_size

    def __getitem__(self, name: str) -> bytes:
        if name not in self._sizes:
            raise KeyError(name)
        with _readable():
            return self._archive.read(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._sizes)

    def __len__(self) -> int:
        return len(self._sizes)


def table_of(proof: ProofFile) -> dict[str, Any]:
    """A proof's table of contents, its entries of the types that they have.

    Raises:
        StateError: If one is missing, or the proof is of another version.
    """
    table = proof.table()
    match table:
        case {
            "federation": str(), "made": str(), "device": str(), "authority": str(),
            "certificate": str(), "members": dict(),
            "start": {"seq": int(), "head": str()},
            "end": {"seq": int(), "head": str()},
        }:  # fmt: skip
            return table
        case _:
            raise StateError(
                "the proof's table of contents lacks an entry",
                remedy="Get it again from whoever wrote it.",
            )


@contextmanager
def read_proof(path: Path) -> Iterator[ProofFile]:
    """A proof that is open for as long as the block lasts.

    Raises:
        StateError: If it is no proof, or damaged.
    """
    try:
        file = path.open("rb")
    except OSError as error:
        raise StateError(
            f"{path} cannot be read: {error.strerror}", remedy=disk_remedy(error)
        ) from error
    with file:
        with _readable():
            archive = zipfile.ZipFile(file)
        with archive:
            yield ProofFile(_Members(archive))


def write_proof(
    path: Path,
    members: Iterable[tuple[str, bytes]],
    table: Mapping[str, Any],
    sign: Sign | None,
) -> None:
    """Write a proof; the table of contents is made from the members.

    Args:
        path: The file; it is replaced as a whole.
        members: Names and bytes, each name once.
        table: Its other entries.
        sign: Signs the table; None in a run without identities.

    Raises:
        StateError: If the disk refuses.
    """
    draft = path.with_name(f".{path.name}.tmp")
    digests: dict[str, str] = {}
    try:
        with zipfile.ZipFile(draft, "w", zipfile.ZIP_STORED) as archive:
            for name, content in members:
                digests[name] = sha256(content).hexdigest()
                _put(archive, name, content)
            line = record_line({**table, "format": FORMAT, "members": digests})
            _put(archive, TABLE, line + b"\n")
            if sign is not None:
                _put(archive, SIGNATURE, sign(statement_text(line + b"\n")))
        draft.replace(path)
    except OSError as error:
        raise StateError(
            f"{path} cannot be written: {error.strerror}", remedy=disk_remedy(error)
        ) from error
    finally:
        draft.unlink(missing_ok=True)


def _put(archive: zipfile.ZipFile, name: str, content: bytes) -> None:
    entry = zipfile.ZipInfo(name, _DATE)
    entry.external_attr = 0o600 << 16
    entry.create_system = 3  # Unix, on every system
    archive.writestr(entry, content)


@contextmanager
def _readable() -> Iterator[None]:
    try:
        yield
    except (
        *(zipfile.BadZipFile, OSError, EOFError, ValueError, struct.error),
        *(NotImplementedError, RuntimeError, OverflowError),
    ) as error:
        raise _no_proof(f"it is damaged: {error}") from error


def _no_proof(why: str) -> StateError:
    return StateError(
        f"the file is no proof of a run: {why}",
        remedy="Get it again from whoever wrote it with flash-coordinator prove.",
    )
