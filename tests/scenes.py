"""Runs as their page may find them, up to 200 devices with much to say."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path

from past import LAYERS, RUN, Past

Score = Callable[[int, float], Mapping[str, float]]

LONG = (
    "density 0.05: the largest of 0.05, 0.2 whose round fits this board: training "
    "takes 412 s of the 420 s that a round may take on 4 cores at 1.8 GHz, its update "
    "needs 38 s of a link of 0.4 Mbit/s that is metered at 20 MB a day, memory peaks "
    "at 391 of 400 MiB; at 0.2 training alone would take 1,630 s. The owner allows "
    "training from 22:00 to 06:00 only, and pauses it below 40 % of the battery. "
)
NOTES = "measured on a table: " + "cpu_freq=1800000;governor=ondemand;" * 60


def accuracy(no: int, density: float) -> Mapping[str, float]:
    """Rises to just below one."""
    return {"accuracy": 1 - 0.7 / (no + 1) - 0.02 * (density < 0.1), "loss": 2.3 / no}


def perfect(no: int, density: float) -> Mapping[str, float]:
    """All right from the beginning: a line on the upper edge."""
    del no, density
    return {"accuracy": 1.0, "loss": 0.001}


def regression(no: int, density: float) -> Mapping[str, float]:
    """Far from a share, and with a sign."""
    return {"loss": 12_345_678.9 / no, "rmse": 23_140.2 / no + density, "r2": -1.5 / no}


def labels(no: int, density: float) -> Mapping[str, float]:
    """A share with a long name."""
    return {"label_accuracy": 0.9 - density / no, "loss": 1.0}


def loss_only(no: int, density: float) -> Mapping[str, float]:
    """Tiny values."""
    return {"loss": 1e-6 / no + density * 1e-7}


def not_finite(no: int, density: float) -> Mapping[str, float]:
    """Diverges."""
    bad = math.nan if no % 2 else math.inf
    return {"accuracy": bad if no > 2 else 0.5 + density, "loss": bad}


def all_nan(no: int, density: float) -> Mapping[str, float]:
    """Never was anything."""
    del no, density
    return {"accuracy": math.nan, "loss": math.nan}


class Scene:
    """Writes one run's folder.

    Args:
        folder: The run's.
        devices: How many there are.
        rounds: How many are done.
        score: What evaluation gave.
        wanted: Rounds of the run.
        wordy: Whether devices have long names and much to say.
        densities: Of the run.
    """

    def __init__(
        self,
        folder: Path,
        devices: int = 4,
        rounds: int = 6,
        score: Score = accuracy,
        *,
        wanted: int = 20,
        wordy: bool = False,
        densities: tuple[float, ...] = (0.05, 0.2),
    ) -> None:
        self.past = past = Past(folder, devices)
        text = RUN.replace("rounds = 3", f"rounds = {wanted}")
        text = text.replace("[0.05, 0.2]", str(list(densities)))
        (folder / "run.toml").write_text(text, encoding="utf-8")
        if wordy:
            past.names = [
                f"greenhouse-north-bay-{i:03d}-raspberry-pi-zero-2w.plant.example"
                for i in range(devices)
            ]
        past.hello()
        if len(densities) > 2:
            counts = {
                str(d): {n: max(1, round(d * k)) for n, k in LAYERS.items()}
                for d in densities
            }
            past.ledger.put("counts", counts)
        past.ledger.put(
            "workload",
            {
                "macs": {"conv1.weight": 90_000, "fc.weight": 1000},
                "dense_macs": 0,
                "dense_numel": 20,
            },
        )
        if wordy:
            self._talk()
        for no in range(1, rounds + 1):
            past.begin(no)
            past.accept_all(no)
            past.ledger.freeze(no)
            past.ledger.finish(no, model=f"round-{no:05d}")
            for density in densities:
                past.ledger.record_score(no, density, dict(score(no, density)))
        past.ledger.settle()

    def _talk(self) -> None:
        ledger = self.past.ledger
        for place, name in enumerate(self.past.names):
            ledger.see_device(
                name,
                profile={
                    "board": "Raspberry Pi Zero 2 W (512 MB), in a steel cabinet",
                    "ram_mib": 391,
                    "notes": NOTES,
                    "measured": {"on": "2026-11-02", "torch": "2.9.1+cpu", "os": "b12"},
                    **{
                        f"limits.{i}.some_long_key_of_a_limit": i * 1.5
                        for i in range(30)
                    },
                },
                examples=12_345,
                version="0.1.0",
            )
            ledger.assign(name, 0.05 if place % 2 else 0.2, LONG)
            ledger.pace(name, f"does 3 of 9 steps a round: {LONG}" if place % 3 else "")
            ledger.note(
                name, f"the battery is at 12 %. {LONG}" if place % 4 == 1 else ""
            )
            ledger.refuse(name, 1, "clipped", f"its norm was bounded. {LONG}")
            if place % 5 == 0:
                ledger.refuse(name, 1, "rejected", f"a value is not finite. {LONG}")


def waiting(folder: Path) -> Past:
    """A coordinator that has heard of nobody."""
    return Past(folder, 0)


def warming(folder: Path) -> Past:
    """The warm-up is open: no masks, no scores."""
    past = Past(folder, 3)
    for name in past.names:
        past.ledger.see_device(name, profile={"board": "pi 4"}, examples=9, version="1")
    past.begin(0)
    return past


def middle(folder: Path) -> Past:
    """Some rounds done, one open."""
    scene = Scene(folder)
    scene.past.begin(7)
    scene.past.accept(scene.past.names[0], 7)
    scene.past.ledger.refuse(
        scene.past.names[1], 6, "rejected", "its norm is not finite"
    )
    scene.past.ledger.refuse(scene.past.names[2], 6, "clipped", "its norm was bounded")
    scene.past.ledger.settle()
    return scene.past


def ended(folder: Path) -> Past:
    """All done, with models and an export."""
    past = Scene(folder, rounds=12, wanted=12).past
    for path in (
        "models/density-0.05.safetensors",
        "models/density-0.2.safetensors",
        "exports/density-0.05.onnx",
        "exports/a-bundle-for-every-board-in-the-north-greenhouse/manifest.json",
        "exports/a-bundle-for-every-board-in-the-north-greenhouse/model.flsp",
    ):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(b"x" * 70_000)
    return past


def aborted(folder: Path) -> Past:
    """The last round was given up."""
    past = Scene(folder, rounds=2).past
    past.begin(3)
    past.ledger.abort(3, f"the deadline passed with 1 of 2 updates. {LONG}")
    past.ledger.settle()
    return past


def one_device(folder: Path) -> Past:
    """One device, one round: one point in every chart."""
    return Scene(folder, devices=1, rounds=1).past


def many(folder: Path) -> Past:
    """200 devices with long names that say much, 60 rounds."""
    past = Scene(folder, devices=200, rounds=4, wordy=True).past
    for no in range(5, 61):
        past.ledger.plan_round(no, goal=200, quorum=1, rate=0.1, base="")
        past.ledger.abort(no, f"nobody answered. {LONG}")
    past.ledger.settle()
    return past


def densities(folder: Path) -> Past:
    """Twelve densities."""
    return Scene(folder, densities=tuple(round(0.05 * k, 2) for k in range(1, 13))).past


SCENES: Mapping[str, Callable[[Path], Past]] = {
    "waiting": waiting,
    "warm-up": warming,
    "middle": middle,
    "ended": ended,
    "aborted": aborted,
    "one device": one_device,
    "many": many,
    "densities": densities,
    "perfect": lambda folder: Scene(folder, score=perfect).past,
    "regression": lambda folder: Scene(folder, score=regression).past,
    "labels": lambda folder: Scene(folder, score=labels).past,
    "loss only": lambda folder: Scene(folder, score=loss_only).past,
    "not finite": lambda folder: Scene(folder, score=not_finite).past,
    "all nan": lambda folder: Scene(folder, score=all_nan).past,
}
