"""Examples whose tasks have metrics of their own reach what they are for."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.parametrize(
    ("example", "metric", "better"),
    [
        ("10_regression_from_csv", "rmse", lambda value: 0 < value < 1.5),
        ("11_anomalies", "auroc", lambda value: 0.8 < value <= 1),
    ],
)
def test_an_example_is_shown_by_its_own_metric(
    example: str, metric: str, better: object, tmp_path: Path
) -> None:
    for file in (EXAMPLES / example).iterdir():
        if file.is_file():
            (tmp_path / file.name).write_bytes(file.read_bytes())
    simulate = ["-m", "coordinator.cli", "simulate", "run", "--settings"]
    for line in (["prepare.py"], [*simulate, "simulation.toml", "--workers", "1"]):
        subprocess.run([sys.executable, *line], cwd=tmp_path, check=True)
    lines = next(tmp_path.rglob("metrics.jsonl")).read_text().splitlines()
    last = json.loads(lines[-1])
    assert last["metric"]["name"] == metric
    for found in last["scores"].values():
        assert "accuracy" not in found
        assert better(found[metric])  # type: ignore[operator]
