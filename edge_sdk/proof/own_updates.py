"""A device's own account beside a proof: which of its updates counted.

The device remembers the digest of each update that it made and what it was told of it,
so nobody has to be believed: neither the coordinator nor who holds its keys.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edge_sdk.proof.file import ProofFile
from edge_sdk.proof.verify import log_of

__all__ = ["OwnUpdates", "own_updates"]


@dataclass(frozen=True)
class OwnUpdates:
    """One device's updates as a proof has them.

    Attributes:
        counted: Tasks whose update is in a model.
        left_out: Task to why its update was accepted and is in none.
        open: Accepted tasks of rounds that the proof does not hold.
        wrong: Sentences on updates that are not as the device sent them.
    """

    counted: tuple[str, ...]
    left_out: Mapping[str, str]
    open: tuple[str, ...]
    wrong: tuple[str, ...]


def own_updates(
    proof: ProofFile, device: str, made: Mapping[str, str], accepted: frozenset[str]
) -> OwnUpdates:
    """Look for a device's updates in a proof that was verified.

    Args:
        proof: Open.
        device: Its name.
        made: Task to the SHA-256 of the update, as the device made it.
        accepted: Tasks whose update it was told had been accepted.
    """
    rounds, found = _of_device(proof, device)
    counted, left_out, later, wrong = [], {}, [], []
    for task in sorted(accepted & set(made)):
        leaf = found.get(task)
        if leaf is None and int(task.partition("-")[0]) not in rounds:
            later.append(task)
        elif leaf is None or "update" not in leaf:
            wrong.append(f"the update for task {task} was accepted and is not there")
        elif leaf["update"] != made[task]:
            wrong.append(f"the update for task {task} is not the one that was sent")
        elif leaf["counted"] is True:
            counted.append(task)
        else:
            left_out[task] = str(leaf["why"]) or "its round gave no model"
    wrong += [
        f"an update counts for task {task} that this device made otherwise"
        for task, leaf in sorted(found.items())
        if leaf.get("counted") and task in made and leaf["update"] != made[task]
        and task not in accepted
    ]  # fmt: skip
    return OwnUpdates(tuple(counted), left_out, tuple(later), tuple(wrong))


def _of_device(
    proof: ProofFile, device: str
) -> tuple[set[int], dict[str, dict[str, Any]]]:
    """Rounds that have ended in a proof, and a device's leaves of their ends."""
    rounds: set[int] = set()
    found: dict[str, dict[str, Any]] = {}
    for seq, record in log_of(proof):
        if record["kind"] not in ("model", "aborted"):
            continue
        rounds.add(int(record["round"]))
        leaves = [json.loads(line) for line in proof.lines(f"leaves/{seq:08}.jsonl")]
        placed = proof.lines(f"paths/{seq:08}.jsonl")
        leaves += [json.loads(json.loads(line)["leaf"]) for line in placed]
        found |= {leaf["task"]: leaf for leaf in leaves if leaf["device"] == device}
    return rounds, found
