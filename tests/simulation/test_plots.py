"""Pictures of two runs."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from coordinator.simulation.rounds import Simulation
from coordinator.simulation.workers.interface import Workers
from edge_sdk.terminal import Exit


def test_four_pictures_are_drawn_and_a_folder_without_rounds_is_named(
    make: Callable[..., Simulation], pool: Workers, tmp_path: Path
) -> None:
    for name in ("pdst", "jmwst"):
        simulation = make(name, algorithm=name, densities=[0.1, 0.2])
        while not simulation.done:
            simulation.step(pool)
    command = [sys.executable, "-m", "coordinator.cli", "plot", "pictures"]
    subprocess.run([*command, "pdst", "jmwst"], cwd=tmp_path, check=True)
    written = sorted((tmp_path / "pictures").glob("*.png"))
    assert [path.stem for path in written] == [
        "layer-densities",
        "mask-mismatch",
        "metric-by-bytes",
        "metric-by-round",
    ]
    for path in written:
        assert path.read_bytes()[:4] == b"\x89PNG"
        assert path.stat().st_size > 5000
    failed = subprocess.run(
        [*command, "nowhere"], cwd=tmp_path, check=False, capture_output=True, text=True
    )
    assert failed.returncode == Exit.STATE
    assert "nowhere holds no finished round" in failed.stderr
