"""Memory of a board without torch, from its start through rounds of a federation.

Run from the root of the project:
    python tests/bench/bench_memory.py [--rounds N] [--json FILE]

A real coordinator, mosquitto, an agent without torch in a control group that the kernel
kills in, and a second, free one of a stronger board: the coordinator asks it for the
warm-up, which trains every weight. Examples are random, of the shape and type that the
task's own have. A row is one task at one density: the group's limit, the most anonymous
memory that the agent held, the most that it had resident (with libraries' pages, which
the kernel can drop), and how many of its updates were accepted.
"""

from __future__ import annotations

import argparse
import os
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from memory_group import inside, memory_group
from without_torch import python_without_torch

from coordinator.ledger import read_ledger
from edge_sdk.datasets.partition import save_partition
from edge_sdk.errors import StateError
from edge_sdk.json_text import to_json
from edge_sdk.tasks.task import Examples

GIVE_UP_S = 300.0


@dataclass(frozen=True)
class Case:
    """A task at a density, and the megabytes (1e6) that must do."""

    task: str
    density: float
    limit_mb: int
    shape: tuple[int, ...]
    classes: int
    examples: int = 256


CASES = (
    Case("spoken", 0.1, 128, (1, 61, 40), 10),
    Case("femnist", 0.05, 160, (28, 28), 62),
)


@dataclass(frozen=True)
class Found:
    """What became of it; `died` is the agent's exit status, None while it lived."""

    task: str
    density: float
    limit_mb: int
    held: bool
    anonymous_mb: float
    resident_mb: float
    accepted: int
    died: int | None


def measured(case: Case, rounds: int) -> Found:
    """One federation of one board."""
    with (
        tempfile.TemporaryDirectory() as scratch,
        memory_group(case.limit_mb * 10**6) as group,
    ):
        folder = Path(scratch)
        _write(folder, case, rounds)
        agent_line = [python_without_torch(), "-m", "edge_sdk.cli", "run", "dev.toml"]
        with (folder / "log").open("wb") as log:
            coordinator = subprocess.Popen(
                [sys.executable, "-m", "coordinator.cli", "run", "run"],
                cwd=folder, stdout=log, stderr=log,
            )  # fmt: skip
            strong = subprocess.Popen(
                [*agent_line[:-1], "strong.toml"], cwd=folder, stdout=log, stderr=log
            )
            agent = subprocess.Popen(
                inside(group, agent_line) if group else agent_line,
                cwd=folder, stdout=log, stderr=log,
            )  # fmt: skip
        peak = [0.0, 0.0]
        try:
            began = time.monotonic()
            while agent.poll() is None and coordinator.poll() is None:
                peak = [max(p) for p in zip(peak, _held(agent.pid), strict=True)]
                if time.monotonic() - began > GIVE_UP_S:
                    break
                time.sleep(0.005)
        finally:
            for process in (agent, strong, coordinator):
                process.terminate()
                process.wait()
        accepted = _accepted(folder / "run")
        if not accepted:
            print((folder / "log").read_text()[-3000:], file=sys.stderr)
        return Found(
            *(case.task, case.density, case.limit_mb, group is not None),
            *(round(p, 1) for p in peak),
            accepted,
            agent.returncode if agent.returncode not in (0, -15) else None,
        )


def _held(pid: int) -> tuple[float, float]:
    """Megabytes: anonymous now, and the most resident so far."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0.0, 0.0
    fields = dict(line.split(":", 1) for line in lines if ":" in line)
    found = [fields.get(key, "0 kB").split()[0] for key in ("RssAnon", "VmHWM")]
    anonymous, resident = (int(kb) * 1024 / 1e6 for kb in found)
    return anonymous, resident


def _accepted(run: Path) -> int:
    try:
        ledger = read_ledger(run)
    except StateError:
        return 0
    try:
        return sum(row["accepted"] is not None for row in ledger.tasks_of_device("dev"))
    finally:
        ledger.close()


def _write(folder: Path, case: Case, rounds: int) -> None:
    rng = np.random.default_rng(0)
    shape = (case.examples, *case.shape)
    whole = len(case.shape) == 2  # as images are kept on disk
    inputs = (
        rng.integers(0, 256, shape).astype(np.uint8)
        if whole
        else rng.standard_normal(shape).astype(np.float32)
    )
    own = Examples(inputs, rng.integers(0, case.classes, case.examples))
    for name, part in (("data", "train"), ("eval", "eval")):
        (folder / name).mkdir()
        save_partition(folder / name, own, part=part)  # type: ignore[arg-type]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    (folder / "run").mkdir()
    (folder / "run" / "run.toml").write_text(
        f'federation = "memory"\ntask = "{case.task}"\nevaluation = "../eval"\n'
        f"densities = [{case.density}]\nrounds = {rounds}\nwait_for = 2\n"
        f"port = {port}\n[training]\nmax_steps = 10\n"
        "[warm_up]\ndevices = 1\nmax_steps = 4\n",
        encoding="utf-8",
    )
    boards = {"dev": "raspberry_pi_zero_2_w", "strong": "raspberry_pi_5_8gb"}
    for name, board in boards.items():
        (folder / f"{name}.toml").write_text(
            f'name = "{name}"\nfederation = "memory"\ntask = "{case.task}"\n'
            f'broker = "mqtt://127.0.0.1:{port}"\ndata = "data"\n'
            f'state = "state-{name}"\nthreads = 1\nprofile = "{board}"\n',
            encoding="utf-8",
        )


def main() -> int:
    """Prints a table; writes JSON where asked."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows = []
    print("task      d     limit MB  anonymous  resident  accepted")
    for case in CASES:
        found = measured(case, options.rounds)
        rows.append(found)
        held = "" if found.held else "  (no control group here)"
        died = "" if found.died is None else f"  died: {found.died}"
        print(
            f"{found.task:9} {found.density:<5g} {found.limit_mb:8}  "
            f"{found.anonymous_mb:9.1f}  {found.resident_mb:8.1f}  "
            f"{found.accepted:8}{held}{died}"
        )
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        machine = {"cores": len(os.sched_getaffinity(0)), "rounds": options.rounds}
        report = {"rows": [asdict(row) for row in rows], **machine}
        options.json.write_text(to_json(report, indent=2))
    return 0 if all(row.accepted for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
