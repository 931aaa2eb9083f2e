"""Leaves of the trees whose roots are in records: all of them, or one device's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from edge_sdk.proof.chain import record_line
from edge_sdk.proof.file import ProofFile
from edge_sdk.proof.merkle import path_of, root_from, root_of
from edge_sdk.proof.records import Found, number, object_of, text

__all__ = ["leaves_of", "own_leaves"]

Record = Mapping[str, Any]


def own_leaves(leaves: Sequence[bytes], device: str) -> list[bytes]:
    """A device's leaves of a tree, each as a line with its place and path.

    Args:
        leaves: All of the tree.
        device: Whose are wanted.
    """
    own = []
    for index, leaf in enumerate(leaves):
        found = object_of(leaf)
        if found is not None and found.get("device") == device:
            path = [step.hex() for step in path_of(leaves, index)]
            place = {"index": index, "size": len(leaves), "path": path}
            own.append(record_line({**place, "leaf": leaf.decode("ascii")}))
    return own


def leaves_of(
    proof: ProofFile, seq: int, record: Record, found: Found, *, whole: bool
) -> list[Record]:
    """The leaves of a record that are in a proof and lead to its root.

    Args:
        proof: Open.
        seq: The record's number.
        record: With ``root`` and ``leaves``, their number.
        found: Told what is wrong.
        whole: Whether all must be there; else those that are, each with its path.
    """
    root, size = text(record, "root"), int(number(record, "leaves"))
    if not whole:
        lines = proof.lines(f"paths/{seq:08}.jsonl")
        return [
            leaf
            for line in lines
            if (leaf := _on_path(line, root, size, seq, found)) is not None
        ]
    lines = proof.lines(f"leaves/{seq:08}.jsonl")
    if len(lines) != size or root_of(lines).hex() != root:
        found.say(f"the leaves of record {seq} do not give its root")
    parsed = [object_of(line) for line in lines]
    if None in parsed:
        found.say(f"a leaf of record {seq} cannot be read")
    return [one for one in parsed if one is not None]


def _on_path(
    line: bytes, root: str, size: int, seq: int, found: Found
) -> Record | None:
    placed = object_of(line) or {}
    leaf, index = text(placed, "leaf"), placed.get("index")
    steps = placed.get("path")
    try:
        path = [bytes.fromhex(step) for step in steps] if steps else []
        if not isinstance(index, int) or placed.get("size") != size:
            raise ValueError("it is of another tree")  # noqa: TRY301
        leads = root_from(leaf.encode("ascii"), index, size, path).hex()
    except (TypeError, ValueError, UnicodeError) as error:
        found.say(f"a path of record {seq} cannot be followed: {error}")
        return None
    if leads != root:
        found.say(f"a leaf of record {seq} is not in the tree of its root")
    return object_of(leaf.encode("ascii"))
