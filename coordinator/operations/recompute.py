"""Makes a run's models again from a proof: from one base and the devices' updates."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec

from coordinator.ledger import SECURE_SUM, RoundRow, UpdateRow
from coordinator.rounds.state import RoundPhase
from edge_sdk.errors import EdgeError, RunError
from edge_sdk.proof.file import ProofFile
from edge_sdk.proof.verify import log_of

__all__ = ["recompute"]

Record = Mapping[str, Any]
Round = tuple[Record, Record, list[Record]]  # opened, ended, its leaves that count


def recompute(proof: ProofFile) -> tuple[list[str], list[str]]:
    """Findings about a verified proof's models, and notes on what was not made again.

    Args:
        proof: Open; its chain and trees hold.

    Returns:
        Sentences on models that their updates do not make; and notes.
    """
    rounds = list(_rounds(proof))
    start = _start(proof, rounds)
    if start is None:
        note = "no model was made again: the proof has no updates' bytes to make it of"
        return [], [note]
    todo = rounds[start:]
    settings = json.loads(proof.members[f"contents/{todo[0][0]['settings']}"])
    private = settings["privacy"]
    if private["noise_multiplier"] and not private.get("secure_aggregation"):
        return [], [
            "no model was made again: a private run's noise is not in its proof"
        ]
    try:
        with tempfile.TemporaryDirectory() as folder:
            return _again(proof, Path(folder), settings, rounds, start)
    except (EdgeError, ImportError, msgspec.ValidationError) as error:
        return [], [f"no model was made again here: {error}"]


def _rounds(proof: ProofFile) -> Iterator[Round]:
    """Rounds after the warm-up that gave a model."""
    opened: Record = {}
    for seq, record in log_of(proof):
        if record["kind"] == "round":
            opened = record
        elif record["kind"] == "model" and record["round"]:
            lines = proof.lines(f"leaves/{seq:08}.jsonl")
            leaves = [one for one in map(json.loads, lines) if one.get("counted")]
            yield opened, record, leaves


def _start(proof: ProofFile, rounds: Sequence[Round]) -> int | None:
    """The first round from which on all is there."""
    start = None
    for place in reversed(range(len(rounds))):
        opened, ended, leaves = rounds[place]
        needed = [one["update"] for one in leaves]
        if "sum" in ended:
            needed.append(ended["sum"]["unmasking"])
        if any(f"updates/{name}" not in proof.members for name in needed):
            break
        if f"models/{opened['base']}" in proof.members:
            start = place
    return start


class _ProvedMemory:
    """A proof in the place of the ledger that models are made from."""

    def __init__(self, proof: ProofFile, folder: Path, rounds: Sequence[Round]) -> None:
        self._proof, self.folder, self._all = proof, folder, rounds
        self._values = json.loads(proof.members["run.json"])
        self._made: dict[str, bytes] = {}
        self.done: list[RoundRow] = []

    def get(self, key: str) -> Any:
        return self._values.get(key)

    def put(self, key: str, value: Any) -> None:
        self._values[key] = value

    def beside(self, write: Callable[[], None]) -> None:
        write()

    def blob(self, name: str) -> bytes:
        made = self._made.get(name)
        return self._proof.members[f"updates/{name}"] if made is None else made

    def store(self, content: bytes) -> str:
        name = sha256(content).hexdigest()
        self._made[name] = content
        return name

    def frozen(self, no: int) -> list[UpdateRow]:
        leaves = next(own for _, ended, own in self._all if ended["round"] == no)
        return [_update(one) for one in leaves]

    def secure(self, no: int) -> list[tuple[str, str, bytes]]:
        return []

    def keep_sum(self, no: int, means: Sequence[Sequence[object]], blob: str) -> None:
        self._made = {name: self._made[name] for name in (str(m[1]) for m in means)}
        self.put(SECURE_SUM, {"round": no, "means": means, "unmasking": blob})

    def rounds(self) -> list[RoundRow]:
        return self.done

    def place(self, no: int) -> int:
        return 1 + sum(int(ended["round"]) < no for _, ended, _ in self._all)

    def last_counted(self, before: int) -> dict[str, str]:
        return {
            one["device"]: one["task"]
            for _, ended, leaves in self._all
            for one in leaves
            if ended["round"] < before
        }


def _again(
    proof: ProofFile,
    folder: Path,
    settings: Record,
    rounds: Sequence[Round],
    start: int,
) -> tuple[list[str], list[str]]:
    # They import torch, which the rest of verification does without.
    from coordinator.algorithms.load import load_algorithm  # noqa: PLC0415
    from coordinator.server.global_model import GlobalModel  # noqa: PLC0415
    from coordinator.settings import RunSettings  # noqa: PLC0415
    from edge_sdk.tasks.parts.run_task import run_task  # noqa: PLC0415
    from edge_sdk.tasks.task import load_task  # noqa: PLC0415

    run = msgspec.convert({**settings, "evaluation": None}, RunSettings, strict=False)
    memory = _ProvedMemory(proof, folder, rounds)
    first = rounds[start][0]
    before = int(first["round"]) - 1
    name = f"round-{before:05d}"
    _lay(proof, folder / "checkpoints" / f"{name}.safetensors", first["base"])
    for member in proof.members:
        if member.startswith("models/") and member != f"models/{first['base']}":
            _lay(proof, folder / "checkpoints" / f"{name}.masks", member.split("/")[1])
    memory.done.append(_row(before, f"{name}.safetensors"))
    algorithm = load_algorithm(run.algorithm)
    task = run_task(load_task(run.task), run)
    made = GlobalModel(run, task, algorithm, memory, digests=False)
    made.load()
    wrong = []
    for opened, ended, leaves in rounds[start:]:
        no = int(ended["round"])
        if run.privacy.secure_aggregation and (
            why := _wrong_sum(proof, opened, ended, memory, made)
        ):
            wrong.append(why)
            break
        path = folder / "checkpoints" / made.grow(no, [_update(one) for one in leaves])
        if sha256(path.read_bytes()).hexdigest() != ended["model"]:
            wrong.append(f"the model of round {no} is not what its updates make")
            break  # those after it start from this one
        memory.done.append(_row(no, path.name))
    count = f"{len(rounds) - start} of {len(rounds)} models"
    notes = [f"{count} were made again, bit for bit"]
    if run.privacy.secure_aggregation:
        notes.append(
            "devices masked their updates: the models are made of sums, which are "
            "those of the masked updates; no single update is in the proof"
        )
    return wrong, [] if wrong else notes


def _wrong_sum(
    proof: ProofFile, opened: Record, ended: Record, memory: _ProvedMemory, made: Any
) -> str:
    """Take the masks of a round's updates away again; return what is wrong, or ""."""
    from coordinator.server.secure.sums import unmask_again  # noqa: PLC0415

    no, told = int(ended["round"]), ended["sum"]
    packed = proof.members[f"updates/{told['unmasking']}"]
    try:
        orders = unmask_again(memory, no, packed, *made.base_of(no))
    except RunError as error:
        return f"the sum of round {no} is not that of its masked updates: {error}"
    lines = proof.lines(f"leaves/{opened['seq']:08}.jsonl")
    given = {one["device"]: one["order"] for one in map(json.loads, lines)}
    if {d: sha256(order).hexdigest() for d, order in orders.items()} != given:
        return f"the sum of round {no} was read with other orders than were given out"
    if memory.get(SECURE_SUM)["means"] != told["means"]:
        return f"the sum of round {no} is not that of its masked updates"
    return ""


def _lay(proof: ProofFile, path: Path, digest: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(proof.members[f"models/{digest}"])


def _row(no: int, model: str) -> RoundRow:
    return RoundRow(no, RoundPhase.DONE, 0, 0, 0.0, "", model, "")


def _update(one: Record) -> UpdateRow:
    return UpdateRow(
        *(one["task"], one["device"], one["density"], one["update"], one["examples"]),
        norm=one["norm"],
        metrics=one["metrics"],
        scale=one["scale"],
        weight=one["weight"],
    )
