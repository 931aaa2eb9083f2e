"""What one slow device costs a fleet: real processes, a real broker, paced steps.

Run from the root of the project:
    python tests/bench/bench_straggler.py [--liar] [--no-baseline] [--json FILE]

Three devices, then the same three and one that is ten times slower and says so. With
--liar there is one more, seven times slower, whose profile says that it is as fast as
the others. Their step time is set by a sleep in the task, so that a shared processor
disturbs little. Prints each round's seconds, what the slow devices did in it, and the
ratio of the two fleets.
"""

from __future__ import annotations

import argparse
import json
import os
import sqlite3
import statistics
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

from coordinator.views.terminal.status import summary
from device_profiles.step_time import REFERENCE_CALLS, step_terms
from edge_sdk.datasets.prepare import prepare_folders
from edge_sdk.json_text import to_json
from edge_sdk.tasks.cost import workload_of
from edge_sdk.wire.codec import unpack
from edge_sdk.wire.messages import TaskOrder
from edge_sdk.zoo.tasks.digits import task as digits

USUAL = ("pi-1", "pi-2", "pi-3")
SLOW, LIAR = "slow", "liar"
TIMES = {SLOW: 10.0, LIAR: 7.0}
STEP_S, STEPS, BATCH = 0.08, 40, 8
TASK = """
import os, time
from dataclasses import replace
from edge_sdk.zoo.tasks.digits import task as digits

def wait(inputs, generator):
    time.sleep(float(os.environ.get("STEP_S", "0")))
    return inputs

task = replace(digits, augment=wait)
"""


@dataclass(frozen=True)
class Fleet:
    """What one fleet did, round by round."""

    seconds: list[float]
    steps: dict[str, list[int]]
    densities: dict[str, list[float]]
    why: dict[str, str]
    pace: dict[str, str]


def overhead_ms(step_s: float) -> float:
    """What a profile has to say for a step of this task to take so long."""
    load = workload_of(digits, examples=1, epochs=1, batch=BATCH)
    return 1000 * step_s * REFERENCE_CALLS / step_terms(load, 0.4, "masked").calls


def write(
    folder: Path, names: tuple[str, ...], rounds: int, told: dict[str, float]
) -> None:
    data = prepare_folders(
        "digits", folder / "cache", folder / "data", names, alpha=10.0, seed=1
    )
    (folder / "paced.py").write_text(TASK)
    (folder / "run").mkdir()
    (folder / "run/run.toml").write_text(
        f'federation = "pace"\ntask = "paced:task"\n'
        f'evaluation = "{data["evaluation"]}"\n'
        f"densities = [0.1, 0.4]\nrounds = {rounds}\n"
        'algorithm = "hetero-flash"\n'  # one pass a batch, whatever the density
        f"wait_for = {len(names)}\nround_budget_s = 60\n"
        f"[training]\nepochs = 9\nmax_steps = {STEPS}\nbatch_size = {BATCH}\n"
        "[warm_up]\ndevices = 2\nepochs = 2\nmax_steps = 10\n"
    )
    for name in names:
        cap = "[caps]\nbytes_per_round = 20000\n" if name in TIMES else ""
        (folder / f"{name}.profile.toml").write_text(
            f'like = "x86_small_box"\nboard = "{name}"\n'
            f"step_overhead_ms = {overhead_ms(told[name]):.3f}\n{cap}"
        )


def device(folder: Path, name: str, broker: str) -> None:
    (folder / f"{name}.toml").write_text(
        f'name = "{name}"\nfederation = "pace"\nbroker = "{broker}"\n'
        f'task = "paced:task"\ndata = "data/{name}"\nstate = "state-{name}"\n'
        f'profile = "{name}.profile.toml"\nengine = "masked"\nthreads = 1\n'
    )


def run(
    names: tuple[str, ...],
    rounds: int,
    step_s: dict[str, float],
    told: dict[str, float],
) -> Fleet:
    from coordinator.broker.start import open_broker

    with tempfile.TemporaryDirectory(prefix="straggler-") as name:
        folder = Path(name)
        write(folder, names, rounds, told)
        with open_broker(None, folder / "broker") as broker:
            text = (folder / "run/run.toml").read_text()
            (folder / "run/run.toml").write_text(f'broker = "{broker.url}"\n{text}')
            for one in names:
                device(folder, one, broker.url)
            federate(folder, names, step_s)
        return read(folder / "run")


def federate(folder: Path, names: tuple[str, ...], step_s: dict[str, float]) -> None:
    processes = [start(folder, "coordinator", ["coordinator.cli", "run", "run"], 0.0)]
    for one in names:
        command = ["edge_sdk.cli", "run", f"{one}.toml", "--until-done"]
        processes.append(start(folder, one, command, step_s[one]))
    try:
        if processes[0].wait(timeout=600):
            raise SystemExit((folder / "coordinator.log").read_text()[-3000:])
        for process in processes:
            process.wait(timeout=60)
    finally:
        for process in processes:
            process.kill()
            process.wait()


def start(
    folder: Path, name: str, command: list[str], step_s: float
) -> subprocess.Popen[bytes]:
    with (folder / f"{name}.log").open("wb") as log:
        return subprocess.Popen(
            [sys.executable, "-m", *command],
            cwd=folder,
            env={**os.environ, "OMP_NUM_THREADS": "1", "STEP_S": str(step_s)},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )


def read(run: Path) -> Fleet:
    found = summary(run)
    with sqlite3.connect(f"file:{run}/ledger.sqlite?mode=ro", uri=True) as db:
        spans = db.execute("SELECT opened, closed FROM rounds WHERE no > 0").fetchall()
        tasks = db.execute(
            "SELECT u.device, u.metrics, t.order_bytes FROM updates u "
            "JOIN tasks t ON t.id = u.task "
            "WHERE u.round > 0 AND u.frozen = 1 ORDER BY u.round"
        ).fetchall()
    steps: dict[str, list[int]] = {}
    densities: dict[str, list[float]] = {}
    for name, metrics, order in tasks:
        steps.setdefault(name, []).append(int(json.loads(metrics)["steps"]))
        densities.setdefault(name, []).append(unpack(order, TaskOrder).density)
    return Fleet(
        [
            (datetime.fromisoformat(b) - datetime.fromisoformat(a)).total_seconds()
            for a, b in spans
        ],
        steps,
        densities,
        {d["name"]: d["why"] for d in found["devices"]},
        {d["name"]: d["pace"] for d in found["devices"]},
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--liar", action="store_true")
    parser.add_argument("--no-baseline", action="store_true")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    usual = dict.fromkeys(USUAL, STEP_S)
    slow = (SLOW, LIAR) if options.liar else (SLOW,)
    true = {**usual, **{name: TIMES[name] * STEP_S for name in slow}}
    told = {**true, LIAR: STEP_S} if options.liar else true
    mixed = run((*USUAL, *slow), options.rounds, true, told)
    print(f"{STEPS} steps of {STEP_S} s; rounds of three devices and of {slow}:")
    print("with:     ", " ".join(f"{s:.1f} s" for s in mixed.seconds))
    for name in slow:
        print(f"{name} ({TIMES[name]:g} times slower): steps", *mixed.steps[name])
        print(f"     densities {set(mixed.densities[name])}: {mixed.why[name]};")
        print(f"     {mixed.pace[name]}")
    if not options.no_baseline:
        without = run(USUAL, options.rounds, usual, usual)
        print("without:  ", " ".join(f"{s:.1f} s" for s in without.seconds))
        # Processes start in the first round, and the lie is found in the first two.
        settled = slice(2 if options.liar else 1, None)
        ratio = statistics.mean(mixed.seconds[settled]) / statistics.mean(
            without.seconds[settled]
        )
        print(f"round time with over without: {ratio:.2f}")
    if options.json:
        options.json.write_text(to_json(asdict(mixed)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
