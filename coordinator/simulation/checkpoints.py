"""A simulation's plan and models on disk: where it goes on from."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from coordinator.checkpoints.models import model_name
from coordinator.ledger import RoundRow
from coordinator.rounds.state import RoundPhase
from coordinator.rounds.tasks import task_id
from coordinator.simulation.record import RoundRecord
from edge_sdk.checkpoint import replace_file
from edge_sdk.errors import RemoteProtocolError
from edge_sdk.json_text import to_json
from edge_sdk.storage.memory import DeviceMemory
from edge_sdk.wire.parts import unpack_own

__all__ = ["EPOCH", "MEMORIES", "SimulationMemory"]

PLAN = "plan.json"
EPOCH = 1  # of every simulation: task ids are made of it
MEMORIES = "memories"  # of devices, a folder each


class SimulationMemory:
    """Storage that a simulation's global model is made from, instead of a ledger.

    Args:
        folder: The run's.
        records: Its rounds; grows as they do.

    Attributes:
        payloads: Task to the packed update, of the round in hand.
    """

    def __init__(self, folder: Path, records: Sequence[RoundRecord]) -> None:
        self.folder, self._records = folder, records
        self.payloads: dict[str, bytes] = {}

    def get(self, key: str) -> Any:
        """A value of the plan, or None."""
        path = self.folder / PLAN
        return json.loads(path.read_text("utf-8")).get(key) if path.exists() else None

    def put(self, key: str, value: Any) -> None:
        """Stores a value of the plan."""
        path = self.folder / PLAN
        plan = json.loads(path.read_text("utf-8")) if path.exists() else {}
        replace_file(path, to_json({**plan, key: value}, indent=1).encode())

    def beside(self, write: Callable[[], None]) -> None:
        """Has a file written; it is durable before what is put is."""
        write()

    def blob(self, name: str) -> bytes:
        """A packed update of the round in hand."""
        return self.payloads[name]

    def last_counted(self, before: int) -> dict[str, str]:
        """Device to its last task whose update is in an earlier round's model."""
        last = {
            device: record.round
            for record in self._records
            if 0 < record.round < before
            for device in record.accepted
        }
        return {device: task_id(EPOCH, no, device) for device, no in last.items()}

    def of(self, device: str) -> DeviceMemory:
        """Memory of a simulated device."""
        return DeviceMemory(self.folder / MEMORIES / device)

    def own(self, device: str) -> dict[str, NDArray[Any]]:
        """A device's personal entries after its last task that counted, by name."""
        last = self.last_counted(len(self._records)).get(device, "")
        kept = self.of(device).of(last) if last else b""
        try:
            return unpack_own(kept)[0] if kept else {}
        except RemoteProtocolError:  # of a rule alone
            return {}

    def of_devices(
        self, no: int, devices: Iterable[str]
    ) -> dict[str, tuple[str, DeviceMemory]]:
        """Device to its last task that counted, if any, and what it remembers."""
        last = self.last_counted(no)
        return {device: (last.get(device, ""), self.of(device)) for device in devices}

    def place(self, no: int) -> int:
        """Place of a round among those that give a model: 1, 2, ...; 0 of round 0."""
        done = sum(0 < r.round < no and not r.note for r in self._records)
        return done + 1 if no else 0

    def rounds(self) -> list[RoundRow]:
        """The last round that left a model.

        Older runs hold the base once more after a round that was given up.
        """
        for record in reversed(self._records):
            name, no = model_name(record.round), record.round
            if not record.note or (self.folder / "checkpoints" / name).exists():
                done = RoundPhase.DONE
                return [RoundRow(no, done, 0, 0, record.rate, "", name, record.note)]
        return []
