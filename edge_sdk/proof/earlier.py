"""Two proofs of one log: the newer one must continue the older."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edge_sdk.proof.file import ProofFile, table_of
from edge_sdk.proof.records import Found, object_of

__all__ = ["check_earlier"]


def check_earlier(proof: ProofFile, earlier: ProofFile, found: Found) -> None:
    """Two proofs of one log have the same head after each record that both have."""
    old, new = table_of(earlier), table_of(proof)
    if old["federation"] != new["federation"]:
        found.say(f"the earlier proof is of another federation, {old['federation']}")
        return
    heads = {o["seq"]: o["head"] for o in _stated(proof)}
    before = {o["seq"]: o["head"] for o in _stated(earlier)}
    if new["start"]["seq"]:
        heads.setdefault(new["start"]["seq"] - 1, new["start"]["head"])
    shared = sorted(set(heads) & set(before))
    apart = next((seq for seq in shared if heads[seq] != before[seq]), None)
    if apart is not None:
        found.say(
            f"the log has two heads after record {apart}: it was cut there, or earlier,"
            " and continued as another"
        )
    elif not shared:
        found.say("no record of the earlier proof is in this one")
    elif max(before) > max(heads):
        found.say(
            f"the log ends at record {max(heads)}; the earlier proof had "
            f"{max(before)}: it was cut"
        )


def _stated(proof: ProofFile) -> list[Mapping[str, Any]]:
    read = (object_of(line) for line in proof.lines("heads.jsonl"))
    return [one for one in read if one and {"seq", "head"} <= set(one)]
