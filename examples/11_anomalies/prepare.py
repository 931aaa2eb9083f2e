"""Writes made-up machines: normal ones per device, both kinds to evaluate on."""

from pathlib import Path

import numpy as np

PLACES = {**{f"machine-{no}": 300 for no in range(1, 5)}, "evaluation": 400}


def write(root: Path) -> None:
    """One ``machine.csv`` per place; normal examples lie near four directions."""
    directions = np.random.default_rng(0).normal(size=(4, 24)) / 2
    for seed, (name, count) in enumerate(PLACES.items()):
        rng = np.random.default_rng([1, seed])
        mark = (rng.random(count) < 0.3) & (name == "evaluation")
        table = rng.normal(size=(count, 4)) @ directions
        table += rng.normal(0, 0.1, table.shape)
        table[mark] += rng.normal(0, 0.5, (int(mark.sum()), 24))
        (root / name).mkdir(parents=True, exist_ok=True)
        whole = np.column_stack([table, mark])
        np.savetxt(root / name / "machine.csv", whole, "%.5f", ",")


if __name__ == "__main__":
    write(Path("data"))
