"""Forged proofs: what somebody does to a true one who wants it to tell another tale.

A *stranger* computes every hash anew and has no key. An *insider* has the coordinator's
signing key, too, and none of a device.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import numpy as np

from edge_sdk.proof.chain import head_text, link, record_line, statement_text
from edge_sdk.proof.merkle import root_of

__all__ = ["KINDS", "Draft", "Signing", "mutated"]

Members = dict[str, bytes]
Signing = tuple[str, Callable[[bytes], bytes]]  # certificate's digest, key


@dataclass
class Draft:
    """A proof taken apart: records, the leaves of each, and the rest."""

    records: list[dict[str, Any]]
    leaves: list[list[dict[str, Any]]]
    heads: list[dict[str, Any]]
    rest: Members

    @classmethod
    def of(cls, members: Mapping[str, bytes]) -> Draft:
        """From a proof's members."""
        rest = dict(members)
        records = _lines(rest.pop("records.jsonl"))
        heads = _lines(rest.pop("heads.jsonl"))
        leaves = [
            _lines(rest.pop(f"leaves/{one['seq']:08}.jsonl", b"")) for one in records
        ]
        return cls(records, leaves, heads, rest)

    def sealed(
        self, signing: Signing | None = None, *, renumber: bool = True
    ) -> Members:
        """The proof again, with all hashes as they should be, and signed by the key."""
        made = dict(self.rest)
        table = json.loads(made.pop("proof.json"))
        head = bytes.fromhex(table["start"]["head"])
        lines, heads = [], []
        first = table["start"]["seq"]
        for place, (record, leaves) in enumerate(
            zip(self.records, self.leaves, strict=True)
        ):
            seq = first + place if renumber else record["seq"]
            told = [record_line(leaf) for leaf in leaves]
            tree = {}
            if "root" in record:
                tree = {"root": root_of(told).hex(), "leaves": len(told)}
            line = record_line({**record, "seq": seq, **tree})
            head = link(head, line)
            old = self.heads[min(place, len(self.heads) - 1)]
            stated = {**old, "seq": seq, "head": head.hex()}
            if signing is not None and stated["certificate"] == signing[0]:
                text = head_text(table["federation"], seq, head)
                stated["signature"] = signing[1](text).hex()
            lines.append(line + b"\n")
            heads.append(record_line(stated) + b"\n")
            if told:
                made[f"leaves/{seq:08}.jsonl"] = b"".join(t + b"\n" for t in told)
        made |= {"records.jsonl": b"".join(lines), "heads.jsonl": b"".join(heads)}
        table["end"] = {"seq": first + len(lines) - 1, "head": head.hex()}
        return _tabled(made, table, signing)


def _tabled(made: Members, table: dict[str, Any], signing: Signing | None) -> Members:
    signature = made.pop("proof.sig", b"")
    table["members"] = {name: sha256(c).hexdigest() for name, c in made.items()}
    line = record_line(table) + b"\n"
    if signing is not None:
        table_key = json.loads(line)["certificate"]
        signature = signing[1](statement_text(line)) if table_key else b""
    return {**made, "proof.json": line, "proof.sig": signature}


def _lines(content: bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in content.splitlines()]


# -- what is done to a draft -----------------------------------------------------------


def _omit(draft: Draft, rng: np.random.Generator) -> None:
    at = int(rng.integers(len(draft.records)))
    del draft.records[at], draft.leaves[at], draft.heads[at]


def _omit_leaf(draft: Draft, rng: np.random.Generator) -> None:
    leaves = _some_leaves(draft, rng)
    del leaves[int(rng.integers(len(leaves)))]


def _repeat(draft: Draft, rng: np.random.Generator) -> None:
    at, to = (int(i) for i in rng.integers(len(draft.records), size=2))
    for part in (draft.records, draft.leaves, draft.heads):
        part.insert(to, part[at])  # type: ignore[attr-defined]


def _repeat_leaf(draft: Draft, rng: np.random.Generator) -> None:
    leaves = _some_leaves(draft, rng)
    leaves.append(leaves[int(rng.integers(len(leaves)))])


def _alter(draft: Draft, rng: np.random.Generator) -> None:
    _change(draft.records[int(rng.integers(len(draft.records)))], rng)


def _alter_leaf(draft: Draft, rng: np.random.Generator) -> None:
    leaves = _some_leaves(draft, rng)
    _change(leaves[int(rng.integers(len(leaves)))], rng)


def _reorder(draft: Draft, rng: np.random.Generator) -> None:
    a, b = (int(i) for i in rng.choice(len(draft.records), 2, replace=False))
    for part in (draft.records, draft.leaves):
        part[a], part[b] = part[b], part[a]  # type: ignore[call-overload, index]


def _reorder_leaves(draft: Draft, rng: np.random.Generator) -> None:
    leaves = _some_leaves(draft, rng)
    leaves.append(leaves.pop(0))


def _reweigh(draft: Draft, rng: np.random.Generator) -> None:
    many = [leaf for leaves in draft.leaves for leaf in leaves if leaf.get("counted")]
    leaf = many[int(rng.integers(len(many)))]
    name = ("weight", "scale", "examples")[int(rng.integers(3))]
    leaf[name] = leaf[name] * float(rng.choice([0.5, 0.9, 1.1, 2.0]))


def _exchange(draft: Draft, rng: np.random.Generator) -> None:
    """Two devices' updates take each other's place."""
    many = [leaf for leaves in draft.leaves for leaf in leaves if leaf.get("counted")]
    a, b = (many[int(i)] for i in rng.choice(len(many), 2, replace=False))
    for name in ("update", "offer", "certificate")[: 1 + int(rng.integers(3))]:
        if name in a:  # devices without identities sign no offer
            a[name], b[name] = b[name], a[name]


def _cut_and_continue(draft: Draft, rng: np.random.Generator) -> None:
    """The log is cut, and goes on with rounds that never were."""
    at = int(rng.integers(2, len(draft.records)))
    tail = [dict(one) for one in draft.records[at:]]
    for one in tail:
        one["at"] = "2030-01-01T00:00:00.000+00:00"
        if one["kind"] == "model":
            one["model"] = sha256(one["model"].encode()).hexdigest()
    draft.records[at:] = tail


def _cut(draft: Draft, rng: np.random.Generator) -> None:
    at = int(rng.integers(1, len(draft.records)))
    del draft.records[at:], draft.leaves[at:], draft.heads[at:]


def _some_leaves(draft: Draft, rng: np.random.Generator) -> list[dict[str, Any]]:
    many = [leaves for leaves in draft.leaves if leaves]
    return many[int(rng.integers(len(many)))]


def _change(one: dict[str, Any], rng: np.random.Generator) -> None:
    names = sorted(set(one) - {"root", "leaves", "seq"})
    name = names[int(rng.integers(len(names)))]
    value = one[name]
    if isinstance(value, bool):
        one[name] = not value
    elif isinstance(value, int | float):
        one[name] = value + 1
    elif isinstance(value, str) and value:
        at = int(rng.integers(len(value)))
        other = "0" if value[at] != "0" else "1"
        one[name] = value[:at] + other + value[at + 1 :]
    else:
        one[name] = "changed"


DRAFTED: dict[str, Callable[[Draft, np.random.Generator], None]] = {
    "omit": _omit,
    "omit a leaf": _omit_leaf,
    "repeat": _repeat,
    "repeat a leaf": _repeat_leaf,
    "alter": _alter,
    "alter a leaf": _alter_leaf,
    "reorder": _reorder,
    "reorder leaves": _reorder_leaves,
    "reweigh": _reweigh,
    "exchange": _exchange,
    "cut and continue": _cut_and_continue,
    "cut": _cut,
}


def _flip(members: Members, rng: np.random.Generator) -> Members:
    name = sorted(members)[int(rng.integers(len(members)))]
    content = bytearray(members[name] or b"\0")
    content[int(rng.integers(len(content)))] ^= 1 << int(rng.integers(8))
    return {**members, name: bytes(content)}


def _without(members: Members, rng: np.random.Generator) -> Members:
    gone = sorted(members)[int(rng.integers(len(members)))]
    return {name: content for name, content in members.items() if name != gone}


def _of_another(members: Members, other: Members, rng: np.random.Generator) -> Members:
    """Members of another authority's proof take the place of some, or of all."""
    shared = sorted(set(members) & set(other))
    wrong = [name for name in shared if members[name] != other[name]]
    some = rng.choice(wrong, int(rng.integers(1, len(wrong) + 1)), replace=False)
    if rng.random() < 0.2:
        return dict(other)
    return {**members, **{str(name): other[str(name)] for name in some}}


KINDS = (*DRAFTED, "flip a bit", "omit a member", "another authority's")


def mutated(
    members: Members,
    kind: str,
    rng: np.random.Generator,
    *,
    other: Members,
    signing: Signing | None = None,
) -> Members:
    """A proof to which something was done; it is never the same.

    Args:
        members: Of a true one.
        kind: One of `KINDS`.
        rng: Chooses where.
        other: A proof of another authority.
        signing: The coordinator's certificate and key, for an insider.
    """
    while True:
        if kind in DRAFTED:
            draft = Draft.of(members)
            DRAFTED[kind](draft, rng)
            made = draft.sealed(signing, renumber=bool(rng.random() < 0.8))
        elif kind == "flip a bit":
            made = _flip(members, rng)
        elif kind == "omit a member":
            made = _without(members, rng)
        else:
            made = _of_another(members, other, rng)
        if made != members:
            return made
