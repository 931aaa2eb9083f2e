"""Settings and data files of the living demo, and how they change while it runs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from coordinator.broker.start import free_port
from coordinator.demo.living.sensors import REFERENCE, Wearer, together, wearer
from device_profiles.toml_text import quoted
from edge_sdk.checkpoint import replace_file
from edge_sdk.datasets.partition import save_partition
from edge_sdk.kernels.library import unavailable_reason
from edge_sdk.tasks.task import Examples

__all__ = ["DENSITY", "FIRST", "JOIN", "LEAVES", "Fleet", "write_run"]

DENSITY = 0.5
# A third of an epoch a round: ten processes share a machine, and whole epochs took half
# of all processor time for .1 points.
STEPS, RATE = 40, 0.03
FIRST, JOIN, LEAVES = 8, (9, 10), 8  # devices from the start, and who comes and goes
ROW = (1, 2, 3)  # devices of whom the new class comes
TRAIN, TESTS, HIDDEN = 4000, 1500, 2500  # examples of a device, and of the hidden set


@dataclass
class Fleet:
    """The devices' folders, and what lies in them now.

    Attributes:
        folder: Of the demo.
        numbers: The devices that are here.
        shifted: Whether the data have shifted.
    """

    folder: Path
    numbers: list[int]
    shifted: bool = False

    def settings_of(self, number: int) -> Path:
        """The settings file of a device."""
        return self.folder / "devices" / f"pi-{number}.toml"

    def wearer_of(self, number: int) -> Wearer:
        """The wearer of a device, as things are now."""
        return wearer(number, rows=self.shifted and number in ROW)

    def write(self, number: int, *, spoiled: bool = False) -> None:
        """Writes a device's examples as they are now.

        Args:
            number: Of the device.
            spoiled: Whether its training labels are those of another activity.
        """
        whose, base = self.wearer_of(number), 10 * number + self.shifted
        train = whose.windows(TRAIN, base, shifted=self.shifted)
        if spoiled:
            train = Examples(train.inputs, (train.targets + 2) % len(whose.shares))
        tests = whose.windows(TESTS, 1000 + base, shifted=self.shifted)
        data = self.folder / "data" / f"pi-{number}"
        save_partition(data, tests, part="eval")
        save_partition(data, train)

    def hidden(self) -> Examples:
        """The central test set that nobody of the federation has."""
        return together(
            [
                self.wearer_of(n).windows(
                    HIDDEN, 2000 + 10 * n + self.shifted, shifted=self.shifted
                )
                for n in self.numbers
            ]
        )

    def training(self) -> Examples:
        """All that the devices train on, as nobody in a federation has it."""
        return together(
            [
                self.wearer_of(n).windows(
                    TRAIN, 10 * n + self.shifted, shifted=self.shifted
                )
                for n in self.numbers
            ]
        )

    def write_settings(self, number: int, port: int) -> None:
        """Writes a device's settings file."""
        data = (self.folder / "data" / f"pi-{number}").resolve()
        lines = [
            f'name = "pi-{number}"',
            'federation = "living"',
            f'broker = "mqtt://127.0.0.1:{port}"',
            f"task = {quoted(REFERENCE)}",
            f"data = {quoted(str(data))}",
            f'state = "pi-{number}/state"',
            f'models = "pi-{number}/models"',
            'profile = "raspberry_pi_4b_4gb"',
            f'engine = "{_engine()}"',
            "threads = 1",
        ]
        _write(self.settings_of(number), lines)


def _engine() -> str:
    """The engine that takes least of a machine which ten devices share.

    A round takes a device 40 ms of processor time by program and 103 by torch's masked
    steps; the program is captured once, in 2 s.
    """
    return "masked" if unavailable_reason() else "program"


def write_run(run: Path, keep_rounds: int) -> int:
    """Writes ``run.toml`` of a run without a last round; returns its broker's port."""
    kept = run / "port"
    port = int(kept.read_text("utf-8")) if kept.exists() else free_port("127.0.0.1")
    replace_file(kept, str(port).encode())
    lines = [
        'federation = "living"',
        f"task = {quoted(REFERENCE)}",
        'evaluation = "devices"',
        f"densities = [{DENSITY}]",
        "rounds = 0",
        f"keep_rounds = {keep_rounds}",
        f"wait_for = {FIRST}",
        f"port = {port}",
        "",
        "[drift]",
        "report = true",
        "",
        "[training]",
        f"rate = {RATE}",
        'schedule = "constant"',
        "momentum = 0.9",
        f"max_steps = {STEPS}",
        "",
        "[warm_up]",
        "devices = 2",
        "max_steps = 40",
    ]
    _write(run / "run.toml", lines)
    return port


def _write(path: Path, lines: list[str]) -> None:
    replace_file(path, ("\n".join(lines) + "\n").encode())
