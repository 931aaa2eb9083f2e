"""Runs of several kinds under kills alone: what comes out is what a quiet run gives.

Nothing is lost for good and no deadline passes. As long as the same devices are in each
round, models, personal weights and answers of devices' tests are compared byte for
byte.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chaos.faults import Fault, schedule
from chaos.fleet import Fleet
from chaos.run import LIMIT_S, Result, run_seed
from warm import Zygote

__all__ = [
    "KILLS",
    "KINDS",
    "Kind",
    "compare_seed",
    "differs",
    "kills",
    "quiet",
    "same_rounds",
]

KILLS = (
    "kill device",
    "kill coordinator",
    "kill broker",
    "die at a write",
    "die at a receipt",
    "power cut",
)
ROUNDS = 3
_PATIENT_S = 600.0  # a round waits for whoever was killed, on a slow machine too
PATIENT = {
    "coordinator.rounds.deadlines.FIRST_GRACE_S": _PATIENT_S,
    "coordinator.rounds.deadlines.GRACE_S": _PATIENT_S,
    "coordinator.server.loop.RETURN_S": _PATIENT_S,
}


@dataclass(frozen=True)
class Kind:
    """One kind of run.

    Attributes:
        top: Keys of run.toml, at its top.
        tables: Tables of it.
        extended: Rounds that come by `extend`, while the warm-up is in hand.
    """

    top: str = ""
    tables: str = ""
    extended: int = 0


KINDS = {
    "evaluation": Kind('evaluation = "devices"\n'),
    "extension": Kind(extended=2),
    "mid-run masks": Kind("algorithm = 'fedtiny(interval=1, blocks=2)'\n"),
    "no warm-up": Kind("algorithm = 'prunefl(interval=1)'\n"),
    "personal": Kind('personal = ["fc2"]\n'),
    "adapters": Kind(
        tables='[adapters]\nrank = 4\non = ["conv2", "fc1"]\ntrain = ["fc2"]\n'
    ),
}


def kills(seed: int) -> tuple[Fault, ...]:
    """The deaths of a seed, of coordinator, broker and devices."""
    return schedule(
        seed, rounds=ROUNDS, devices=3, count=ROUNDS + 3, disks=False, only=KILLS
    )


def quiet(kind: Kind, folder: Path, zygote: Zygote) -> tuple[Result, Mapping[str, Any]]:
    """A run of a kind without faults, and what came out."""
    return _run(kind, 0, (), folder, zygote)


def compare_seed(
    kind: Kind,
    seed: int,
    folder: Path,
    zygote: Zygote,
    wanted: Mapping[str, Any],
) -> Result:
    """A run of a kind under a seed's kills; what `differs` is a violation."""
    result, found = _run(kind, seed, kills(seed), folder, zygote)
    result.violations += differs(wanted, found)
    return result


def differs(wanted: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    """What of a run is not as in a quiet one, in words.

    A device that is away when a round opens is not in it: bits are the same up to the
    first such round, and the history checker alone judges what comes after. An answer
    of a device's test may be missing, since no round waits for it.
    """
    same = same_rounds(wanted, found)
    whole = same == list(wanted["cohorts"]) == list(found["cohorts"])
    pairs = {f"the model of round {no}": ("models", no) for no in same}
    if whole:
        pairs |= {f"the file {name}": ("files", name) for name in wanted["files"]}
        pairs |= {f"what {d} keeps": ("memories", d) for d in wanted["memories"]}
    pairs |= {
        f"the test by {device} of round {no}": ("tests", (no, device))
        for no, device in wanted["tests"].keys() & found["tests"].keys()
        if no in same
    }
    return [
        f"{what} is not that of a quiet run"
        for what, (part, key) in pairs.items()
        if wanted[part].get(key) != found[part].get(key)
    ]


def same_rounds(wanted: Mapping[str, Any], found: Mapping[str, Any]) -> list[int]:
    """The rounds up to the first one with others in it."""
    alike = []
    for no, cohort in wanted["cohorts"].items():
        if found["cohorts"].get(no) != cohort:
            break
        alike.append(no)
    return alike


def _run(
    kind: Kind, seed: int, faults: tuple[Fault, ...], folder: Path, zygote: Zygote
) -> tuple[Result, Mapping[str, Any]]:
    made: dict[str, Any] = {}

    def began(fleet: Fleet) -> None:
        if kind.extended:
            fleet.extend(kind.extended)

    options: dict[str, Any] = {"waits": PATIENT}
    if kind.extended:
        options["warm_up"] = str(folder / "go-on")
    result = run_seed(
        *(seed, "mosquitto", folder, zygote),
        faults=faults,
        rounds=ROUNDS - kind.extended,
        limit_s=10 * LIMIT_S,
        options=options,
        settings=(kind.top, kind.tables),
        at_start=began,
        at_end=lambda fleet: made.update(_outcome(fleet)),
    )
    return result, made


def _outcome(fleet: Fleet) -> dict[str, Any]:
    """What a run leaves behind that kills may not change."""
    updates, done = fleet.rows("updates"), fleet.rows("rounds")
    done = sorted((r for r in done if r["phase"] == "done"), key=lambda r: int(r["no"]))
    kept = {d: (fleet.state(d) / "memory").glob("*.memory") for d in fleet.devices}
    return {
        "cohorts": {
            r["no"]: sorted(u["device"] for u in updates if u["round"] == r["no"])
            for r in done
        },
        "models": {r["no"]: fleet.archive.checkpoints.get(r["model"]) for r in done},
        "files": {
            path.name: path.read_bytes()
            for path in (fleet.run / "models").glob("density-*.safetensors")
        },
        "memories": {d: sorted(p.read_bytes() for p in kept[d]) for d in kept},
        "tests": {
            (row["round"], row["device"]): (row["examples"], json.loads(row["sums"]))
            for row in fleet.rows("evaluations")
            if row["device"] and not row["why"]
        },
    }
