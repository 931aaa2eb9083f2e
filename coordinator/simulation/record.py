"""Record of a simulation after every round: one line of JSON."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from coordinator.algorithms.base import MaskFamily
from coordinator.algorithms.mean import Coverage
from coordinator.rounds.contribution_limits import PAST
from coordinator.views.device_scores import OnDevices
from coordinator.views.scores import ShownMetric
from edge_sdk.checkpoint import replace_file
from edge_sdk.errors import StateError

__all__ = [
    "RoundLog",
    "RoundRecord",
    "Wire",
    "completed",
    "coverage_figures",
    "layer_figures",
    "read_records",
]

METRICS = "metrics.jsonl"


class Wire(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes on the links of all devices.

    Attributes:
        packed_up: Offers and payloads, each once: what simulation counts without links.
        packed_down: Orders, bases and structures, alike.
        payload_up: Those and all else said, in envelopes and with repetitions: what
            MQTT carried. Not reproducible, and so those below.
        payload_down: Alike.
        stream_up: Those and all that MQTT adds, as the kernel counts the TCP streams;
            0 where it does not count.
        stream_down: Alike.
    """

    packed_up: int = 0
    packed_down: int = 0
    payload_up: int = 0
    payload_down: int = 0
    stream_up: int = 0
    stream_down: int = 0

    def less(self, before: Wire) -> Wire:
        """Traffic since an earlier count."""
        names = self.__struct_fields__
        return Wire(**{n: getattr(self, n) - getattr(before, n) for n in names})


class RoundRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One round; 0 is the warm-up, or the plan where there is none.

    Attributes:
        round: Its number.
        accepted: Devices whose update counts.
        asked: How many were asked.
        rate: Learning rate.
        loss: Mean training loss over the accepted devices.
        scores: Density to the task's metrics on the evaluation set, at that density;
            one that is not finite is null in the file.
        bytes_up: Payloads and offers of this round, as packed for the wire.
        bytes_down: Bases and orders of this round, alike.
        total_up: Of all rounds so far, the warm-up included.
        total_down: Alike.
        moved: Whether the next round's masks are not those of this one.
        mismatch: Jaccard distance of the smallest mask to that of the round before
            (FLASH, Eq. 1).
        coverage: Devices that held a weight of the top mask, on average.
        uncovered: Share of the top mask that no device held.
        layers: Density to weight name to layer density.
        seconds: Device to virtual seconds, for every device that answered.
        clock_s: Virtual seconds since the start of the run.
        wall_s: Real seconds that the round took to simulate; not reproducible.
        note: Why the round was given up; its model is that of the round before.
        wire: What its devices' links carried, with a transport in the loop.
        unable: Device to why it cannot train: it is not asked again.
        refused: Device to why its update of this round does not count.
        cut: Device to what of its update did not count.
        norms: Device to the length (L2) of its change, of those that count.
        on_devices: Density to how the model does on the devices' own test examples.
        metric: Which of the scores is the task's primary metric; None without scores.
    """

    round: int
    accepted: list[str]
    asked: int
    rate: float
    bytes_up: int
    bytes_down: int
    total_up: int
    total_down: int
    clock_s: float
    wall_s: float
    loss: float | None = None
    scores: dict[str, dict[str, float]] = {}
    moved: bool = False
    mismatch: float = 0.0
    coverage: float = 0.0
    uncovered: float = 0.0
    layers: dict[str, dict[str, float]] = {}
    seconds: dict[str, float] = {}
    note: str = ""
    wire: Wire | None = None
    unable: dict[str, str] = {}
    refused: dict[str, str] = {}
    cut: dict[str, str] = {}
    norms: dict[str, float] = {}
    metric: ShownMetric | None = None
    on_devices: dict[str, OnDevices] = {}


class RoundLog:
    """The rounds of a run's folder: read at the start, a line more after each."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / METRICS
        self.records = read_records(folder)
        whole = b"".join(_line(record) for record in self.records)
        if self._path.exists() and self._path.read_bytes() != whole:
            replace_file(self._path, whole)  # drops a line that a kill cut short

    @property
    def completed(self) -> int:
        """Rounds that were not given up; the warm-up is none."""
        return completed(self.records)

    def holders(self) -> set[str]:
        """Devices that have the masks as they are: nothing has moved since they did."""
        held: set[str] = set()
        for record in reversed(self.records):
            if record.moved or not record.round:
                break
            held.update(record.accepted)
        return held

    def trained(self) -> set[str]:
        """Devices that have had an update accepted, the warm-up's included."""
        return {device for record in self.records for device in record.accepted}

    def norms(self, no: int) -> list[float]:
        """Lengths of the last rounds' updates, for the bounds of a round."""
        last = [r for r in self.records if max(no - PAST, 1) <= r.round < no]
        return [norm for record in last for norm in record.norms.values()]

    def unable(self) -> dict[str, str]:
        """Devices that cannot train, and why."""
        return {d: why for r in self.records for d, why in r.unable.items()}

    def add(self, record: RoundRecord) -> None:
        """Appends a round; it is on the disk when this returns."""
        with self._path.open("ab") as file:
            file.write(_line(record))
            file.flush()
            os.fsync(file.fileno())
        self.records.append(record)


def read_records(folder: Path) -> list[RoundRecord]:
    """The whole rounds of a run's folder; a last line that was cut short is left out.

    Raises:
        StateError: If another line is not a round.
    """
    path = folder / METRICS
    if not path.exists():
        return []
    lines = path.read_bytes().split(b"\n")[:-1]
    return [_read(path, i, line) for i, line in enumerate(lines, start=1)]


def completed(records: Sequence[RoundRecord]) -> int:
    """Rounds that were not given up; the warm-up is none."""
    return sum(1 for r in records if r.round and not r.note)


def layer_figures(family: MaskFamily) -> dict[str, dict[str, float]]:
    """Density (as text) to weight name to layer density."""
    sizes = {s.name: s.numel for s in family.layers}
    return {
        f"{density:g}": {n: round(k / sizes[n], 6) for n, k in mask.counts.items()}
        for density, mask in family.masks.items()
    }


def coverage_figures(coverage: Coverage) -> tuple[float, float]:
    """Devices per weight on average, and the share of weights that none held."""
    held = np.concatenate([c.reshape(-1) for c in coverage.values()])
    return float(held.mean()), float(np.mean(held == 0))


def _read(path: Path, number: int, line: bytes) -> RoundRecord:
    try:
        raw = msgspec.json.decode(line, type=dict[str, Any])
        for scores in raw.get("scores", {}).values():
            # JSON has no NaN: what was not finite is null there.
            scores.update({k: math.nan for k, v in scores.items() if v is None})
        return msgspec.convert(raw, RoundRecord)
    except (msgspec.MsgspecError, AttributeError) as error:
        raise StateError(
            f"{path}, line {number}: {error}",
            remedy="Delete the line and all after it; the run continues from there.",
        ) from error


def _line(record: RoundRecord) -> bytes:
    return msgspec.json.encode(record) + b"\n"
