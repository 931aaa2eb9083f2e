"""Writes the proof of a run: its log, and what a stranger needs to check it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from coordinator.identity.registry import IdentityRegistry
from coordinator.ledger import BlobPlace, Ledger, LogEntry, RunLog, read_ledger
from coordinator.ledger.commits import now
from edge_sdk.checksums import file_digest
from edge_sdk.errors import StateError
from edge_sdk.proof.chain import record_line
from edge_sdk.proof.file import write_proof
from edge_sdk.proof.leaves import own_leaves

__all__ = ["Proved", "prove"]

# What of a ledger says which weights its masks keep.
_PLAN = ("maskable", "layers", "counts", "boxes", "evidence")
# A run goes on meanwhile: short rounds may close between its log and its updates.
_ATTEMPTS = 5


class _GoneError(Exception):
    """An update went while the proof was written."""


@dataclass(frozen=True)
class Proved:
    """Contents of a proof, in numbers.

    Attributes:
        path: The file.
        records: Records of the log.
        updates: Devices' updates whose bytes are in it.
        signed: Whether the run has identities, which sign it.
    """

    path: Path
    records: int
    updates: int
    signed: bool


def prove(
    folder: Path, out: Path, *, device: str = "", with_updates: bool = True
) -> Proved:
    """Write the proof of a run, also while it runs.

    Args:
        folder: The run's.
        out: The file.
        device: Whose updates alone are to be seen; empty for all.
        with_updates: Whether the bytes of updates go in, as far as they are kept; those
            of a private run never do.

    Raises:
        StateError: If there is no run or no log, or no such device in it.
    """
    for _ in range(_ATTEMPTS):
        with suppress(_GoneError):
            return _written(folder, out, device, with_updates=with_updates, there=True)
    return _written(folder, out, device, with_updates=with_updates, there=False)


def _written(
    folder: Path, out: Path, device: str, *, with_updates: bool, there: bool
) -> Proved:
    """Write the proof of what the log holds now.

    Args:
        folder: The run's.
        out: The file.
        device: As of `prove`.
        with_updates: The same.
        there: Whether an update that went meanwhile ends it; else it is left out.

    Raises:
        _GoneError: If one went.
        StateError: As of `prove`.
    """
    ledger = read_ledger(folder)
    try:
        log = ledger.read_log()
        if log is None:
            raise _no_log(folder)
        keys = None
        if IdentityRegistry.exists(folder):
            keys = IdentityRegistry(folder, log.federation).log_keys()
        hidden = device or not with_updates or _is_private(log)
        blobs = {} if hidden else _kept(ledger, log.entries, there=there)
        # Updates come first: those of the round before last go when a round closes.
        members = [*blobs.items(), *_members(ledger, log, device)]
        contents = dict(log.contents)
        table: dict[str, Any] = {"authority": "", "certificate": ""}
        if keys is not None:
            for name, content in (
                ("authority", keys.authority.der),
                ("certificate", keys.certificate()),
            ):
                table[name] = sha256(content).hexdigest()
                contents[table[name]] = content
        members += [(f"contents/{name}", c) for name, c in sorted(contents.items())]
        first, last = log.entries[0], log.entries[-1]
        table |= {
            "federation": log.federation,
            "made": now(),
            "device": device,
            "start": {"seq": first.seq, "head": log.before.hex()},
            "end": {"seq": last.seq, "head": last.head.hex()},
        }
        sign = None if keys is None else keys.sign
        write_proof(out, _read(members, there=there), table, sign)
    finally:
        ledger.close()
    updates = {leaf["update"] for leaf in _results(log.entries)}
    count = sum(name.removeprefix("updates/") in updates for name in blobs)
    return Proved(out, len(log.entries), count, keys is not None)


def _results(entries: Sequence[LogEntry]) -> Iterator[Mapping[str, Any]]:
    """Leaves of updates."""
    for entry in entries:
        for leaf in map(json.loads, entry.leaves):
            if "update" in leaf:
                yield leaf


def _is_private(log: RunLog) -> bool:
    """Return whether devices' updates are to stay here: they have no noise, or mask."""
    named = [json.loads(one.record).get("settings") for one in log.entries]
    settings = [json.loads(log.contents[name])["privacy"] for name in {*named} if name]
    return any(
        one["noise_multiplier"] and not one.get("secure_aggregation")
        for one in settings
    )


def _no_log(folder: Path) -> StateError:
    return StateError(
        f"the run in {folder} has no log: it was made by a version that kept none",
        remedy=f"Go on with it: flash-coordinator resume {folder}; rounds from then on "
        "are in its log. Earlier ones cannot be proved.",
    )


def _members(
    ledger: Ledger, log: RunLog, device: str
) -> Iterator[tuple[str, bytes | BlobPlace]]:
    yield "records.jsonl", b"".join(one.record + b"\n" for one in log.entries)
    yield "heads.jsonl", b"".join(_head(one) + b"\n" for one in log.entries)
    seen = False
    for one in log.entries:
        leaves: Sequence[bytes] = one.leaves
        kind = "leaves"
        if device:
            leaves, kind = own_leaves(one.leaves, device), "paths"
        seen = seen or bool(leaves)
        if leaves:
            name = f"{kind}/{one.seq:08}.jsonl"
            yield name, b"".join(leaf + b"\n" for leaf in leaves)
    if device and not seen:
        raise StateError(
            f"device {device} is in no round of the log of {log.federation}",
            remedy="Name one that flash-coordinator devices lists.",
        )
    plan = {key: ledger.get(key) for key in _PLAN}
    yield "run.json", record_line(plan)


def _head(one: LogEntry) -> bytes:
    return record_line(
        {
            "seq": one.seq,
            "head": one.head.hex(),
            "signature": one.signature.hex(),
            "certificate": one.certificate,
        }
    )


def _kept(
    ledger: Ledger, entries: Sequence[LogEntry], *, there: bool
) -> Mapping[str, BlobPlace]:
    """Updates of the last rounds that are all there, from a model that is kept on."""
    starts = _starts(ledger.folder / "checkpoints")
    records = [json.loads(entry.record) for entry in entries]
    bases = {r["round"]: r["base"] for r in records if r["kind"] == "round"}
    found: dict[str, BlobPlace] = {}
    kept: dict[str, BlobPlace] = {}  # of the rounds after the model found last
    for entry, record in zip(reversed(entries), reversed(records), strict=True):
        if record["kind"] != "model":
            continue
        leaves = (json.loads(leaf) for leaf in entry.leaves)
        names = [leaf["update"] for leaf in leaves if leaf.get("counted")]
        if "sum" in record:  # of masked updates
            names += [name for _, name, _ in record["sum"]["means"]]
            names.append(record["sum"]["unmasking"])
        places = {f"updates/{name}": ledger.place_of(name) for name in names}
        if not record["round"] or not all(p.path.exists() for p in places.values()):
            if there and record["round"] and not kept:
                raise _GoneError
            break
        kept |= places
        base = bases.get(record["round"], "")
        if base in starts:
            models = {f"models/{base}": starts[base], **_masks(starts[base])}
            found = kept | {name: BlobPlace(path) for name, path in models.items()}
    return found


def _starts(checkpoints: Path) -> Mapping[str, Path]:
    """Models of rounds, by digest; one that goes meanwhile is left out."""
    found: dict[str, Path] = {}
    for path in sorted(checkpoints.glob("round-*.safetensors")):
        with suppress(FileNotFoundError):
            found[file_digest(path)] = path
    return found


def _masks(start: Path) -> dict[str, Path]:
    """The masks that a model was on, where they had moved up to then."""
    masks = sorted(start.parent.glob("round-*.masks"))
    moved = [path for path in masks if path.stem <= start.stem]
    return {f"models/{file_digest(moved[-1])}": moved[-1]} if moved else {}


def _read(
    members: Sequence[tuple[str, bytes | BlobPlace]], *, there: bool
) -> Iterator[tuple[str, bytes]]:
    """Members with their bytes, one at a time.

    Raises:
        _GoneError: If the file of one went meanwhile, where it has to be `there`.
    """
    for name, content in members:
        if isinstance(content, bytes):
            yield name, content
        else:
            try:
                yield name, content.read()
            except FileNotFoundError:  # the coordinator has closed another round
                if there:
                    raise _GoneError from None
