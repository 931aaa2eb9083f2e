"""A run's folder with a past, written through the real ledger."""

from __future__ import annotations

from pathlib import Path

from coordinator.ledger import Ledger, TaskRow, open_ledger
from coordinator.rounds.state import TaskPhase
from edge_sdk.wire.blob import manifest_of
from edge_sdk.wire.codec import pack
from edge_sdk.wire.messages import MaskRecipe, TaskOrder, Training
from edge_sdk.wire.rules import Frozen

RUN = """federation = "greenhouse"
task = "digits"
evaluation = "evaluation"
densities = [0.05, 0.2]
rounds = 3
"""
LAYERS = {"conv1.weight": 100, "fc.weight": 1000}
COUNTS = {
    "0.05": {"conv1.weight": 15, "fc.weight": 40},
    "0.2": {"conv1.weight": 60, "fc.weight": 160},
}


class Past:
    """Writes a run's history through the real ledger."""

    def __init__(self, folder: Path, devices: int = 4) -> None:
        self.folder = folder
        self.names = [f"pi-{i:04d}" for i in range(devices)]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "run.toml").write_text(RUN, encoding="utf-8")
        self.ledger: Ledger = open_ledger(folder)

    def hello(self) -> None:
        """Every device says hello and gets a density."""
        for place, name in enumerate(self.names):
            density = 0.2 if place % 2 else 0.05
            self.ledger.see_device(
                name, profile={"board": "pi 4", "ram_mib": 900}, examples=9, version="1"
            )
            self.ledger.assign(name, density, f"{density}, because <b>more</b> is slow")
            self.ledger.count_traffic(
                name,
                sent=1000,
                received=2000,
                rss_mib=300,
                engine="sparse",
                online=True,
                phase="idle",
                celsius=51.5,
            )
        self.ledger.put("layers", LAYERS)
        self.ledger.put("counts", COUNTS)
        self.ledger.put("evidence", {"conv1.weight": 55.0, "fc.weight": 170.5})
        self.ledger.settle()

    def begin(self, no: int) -> None:
        """A round opens with every device in it."""
        self.ledger.plan_round(no, goal=len(self.names), quorum=1, rate=0.1, base="")
        self.ledger.wait_until(no, 450.0)
        self.ledger.issue_tasks(no, [self._task(name, no) for name in self.names])

    def accept(self, name: str, no: int) -> None:
        """An update of one device comes in."""
        self._take(name, no)
        self.ledger.settle()

    def accept_all(self, no: int) -> None:
        """Every device's update comes in."""
        for name in self.names:
            self._take(name, no)
        self.ledger.settle()

    def _take(self, name: str, no: int) -> None:
        self.ledger.accept(
            self._task(name, no),
            f"{name} {no}".encode(),
            examples=9,
            norm=1.0,
            metrics={"loss": 0.5, "seconds": 2.0, "steps": 3.0, "peak_mib": 250.0},
        )

    def end(self, no: int, accuracy: float) -> None:
        """The round closes and is scored."""
        self.ledger.freeze(no)
        self.ledger.finish(no, model=f"round-{no}")
        for density in (0.05, 0.2):
            self.ledger.record_score(
                no, density, {"accuracy": accuracy + density, "loss": 1.0}
            )

    def _task(self, name: str, no: int) -> TaskRow:
        density = 0.2 if self.names.index(name) % 2 else 0.05
        order = TaskOrder(
            id=f"{no}-{name}",
            round_no=no,
            density=density,
            base=manifest_of(bytes(500)),
            mask=MaskRecipe(1, COUNTS[f"{density:g}"], bytes(32)),
            rule=Frozen(),
            training=Training(epochs=1, batch_size=4, learning_rate=0.1),
            ttl_ms=30_000,
            shard=0,
            codec="fp32",
        )
        return TaskRow(
            order.id, no, name, density, TaskPhase.ASSIGNED, pack(order), 500
        )
