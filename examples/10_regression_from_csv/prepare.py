"""Writes made-up readings: a folder per device, and one for the coordinator."""

from pathlib import Path

import numpy as np

PLACES = {**{f"motor-{no}": 300 for no in range(1, 5)}, "evaluation": 400}


def write(root: Path) -> None:
    """One ``readings.csv`` per place; every motor runs at loads of its own."""
    weights = np.random.default_rng(0).normal(size=8)
    for seed, (name, count) in enumerate(PLACES.items()):
        rng = np.random.default_rng([1, seed])
        load = 0.0 if name == "evaluation" else rng.normal(0, 3)
        readings = rng.normal(load, 10, (count, 8))
        inside = 3 * np.tanh(readings @ weights / 20) + rng.normal(0, 0.1, count)
        (root / name).mkdir(parents=True, exist_ok=True)
        table = np.column_stack([readings, inside])
        np.savetxt(root / name / "readings.csv", table, "%.5f", ",")


if __name__ == "__main__":
    write(Path("data"))
