"""Workers of a real Ray cluster: the bytes of the process pool, whatever happens."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import msgspec
import numpy as np
import pytest
from patience import patience

from coordinator.checkpoints.models import model_name
from coordinator.simulation.record import RoundRecord, read_records
from edge_sdk.datasets.partition import save_partition
from edge_sdk.tasks.task import Examples
from edge_sdk.terminal import Exit

ray = pytest.mark.skipif(
    find_spec("ray") is None, reason="ray is not installed (flash-edge[ray])"
)
WAIT_S = patience(240.0)
# Two machines, each with a store of its own, as far as one can have them.
CLUSTER = """
import sys
from ray.cluster_utils import Cluster
if __name__ == "__main__":
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    cluster.add_node(num_cpus=1)
    print(cluster.address, flush=True)
    sys.stdin.read()
    cluster.shutdown()
"""
# A device's examples are read where the command runs: its folder is nowhere else.
TASK = """
import sys
from dataclasses import replace
from edge_sdk.zoo.tasks.digits import task as digits

def read_here(folder):
    assert "simulate" in sys.argv, "read by a worker"
    return digits.train_data(folder)

task = replace(digits, train_data=read_here)
"""


def prepare(folder: Path, rounds: int, task: str = "digits") -> None:
    rng = np.random.default_rng(0)
    for name in ("a", "b", "c", "evaluation"):
        inputs = rng.integers(0, 17, (40, 1, 8, 8)).astype(np.uint8)
        found = Examples(inputs, rng.integers(0, 10, 40))
        part = "eval" if name == "evaluation" else "train"
        save_partition(folder / "data" / name, found, part=part)
    (folder / "own.py").write_text(TASK)
    (folder / "sim.toml").write_text(
        f'task = "{task}"\nfolder = "{folder}/data"\ncohort = 3\ndensities = [0.2]\n'
        f'rounds = {rounds}\nalgorithm = "flash"\njitter = 0.3\n'
        "[warm_up]\ndevices = 2\nepochs = 2\n"
        '[[fleet]]\nshare = 1.0\nboard = "raspberry_pi_4b_4gb"\n'
    )


def command(run: Path, *more: str) -> list[str]:
    return [
        *(sys.executable, "-m", "coordinator.cli", "simulate", str(run)),
        *("--settings", "sim.toml", *more),
    ]


def told(run: Path) -> tuple[list[RoundRecord], list[bytes]]:
    """What a run leaves, without the seconds it took and its bytes on links."""
    found = read_records(run)
    records = [msgspec.structs.replace(r, wall_s=0.0, wire=None) for r in found]
    last = range(max(len(records) - 3, 0), len(records))
    return records, [(run / "checkpoints" / model_name(n)).read_bytes() for n in last]


@contextmanager
def cluster(folder: Path) -> Iterator[str]:
    (folder / "cluster.py").write_text(CLUSTER)
    with (folder / "cluster.log").open("wb") as log:
        child = subprocess.Popen(
            [sys.executable, folder / "cluster.py"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
        try:
            assert child.stdout is not None
            address = child.stdout.readline().strip()
            assert address, (folder / "cluster.log").read_text()
            yield address
        finally:
            child.communicate(timeout=WAIT_S)


@ray
@pytest.mark.slow
def test_two_actors_on_two_nodes_behind_a_broker_give_the_bytes_of_the_process_pool(
    tmp_path: Path,
) -> None:
    prepare(tmp_path, 3, "own:task")
    with cluster(tmp_path) as address:
        far = ("--pool", "ray", "--ray-address", address, "--transport", "mqtt")
        for name, more in (
            ("ray", (*far, "--workers", "2")),
            ("processes", ("--workers", "1")),
        ):
            done = subprocess.run(
                command(tmp_path / name, *more),
                cwd=tmp_path,
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode == 0, done.stderr
    assert told(tmp_path / "ray") == told(tmp_path / "processes")
    assert len(told(tmp_path / "ray")[0]) == 4


# Round 3 begins with a worker that has stopped, and so has not done its part when it is
# killed: a test that looked on from outside would at times come after the last round.
DYING = """
import threading
import psutil
from coordinator.cli import main
from coordinator.simulation.rounds import Simulation
step = Simulation.step
def dies(self, *given):
    if len(self.journal.records) == 3:
        family = psutil.Process().children(recursive=True)
        (actor,) = [p for p in family if "ray::Worker" in " ".join(p.cmdline())]
        actor.suspend()
        threading.Timer(0.1, actor.kill).start()
    return step(self, *given)
Simulation.step = dies
main()
"""


@ray
@pytest.mark.slow
def test_an_actor_that_is_killed_ends_the_run_with_a_remedy_and_it_goes_on(
    tmp_path: Path,
) -> None:
    prepare(tmp_path, 5)
    run, again = tmp_path / "run", command(tmp_path / "run", "--pool", "ray")
    again += ["--workers", "1"]
    dying = [sys.executable, "-c", DYING, *again[3:]]
    ended = subprocess.run(
        dying, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    said = ended.stdout + ended.stderr
    assert ended.returncode == Exit.RUN, said
    assert "a worker of the simulation died" in said
    assert "fewer --workers" in said
    assert "Traceback" not in said
    assert len(read_records(run)) == 3
    ended = subprocess.run(
        again, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    assert [r.round for r in read_records(run)] == list(range(6))


def test_without_ray_its_extra_is_named(tmp_path: Path) -> None:
    prepare(tmp_path, 1)
    code = "import sys; sys.modules['ray'] = None; sys.argv = sys.argv[1:]\n"
    code += "from coordinator.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, *command(tmp_path / "run", "--pool", "ray")[2:]],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == Exit.DEPENDENCY
    assert "pip install 'flash-edge[ray]'" in done.stderr
    assert not (tmp_path / "run").exists()


def test_an_address_without_ray_asked_for_is_refused(tmp_path: Path) -> None:
    prepare(tmp_path, 1)
    done = subprocess.run(
        command(tmp_path / "run", "--ray-address", "auto"),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == Exit.SETTINGS
    assert "Add --pool ray" in done.stderr


@ray
def test_examples_given_as_partition_files_are_read_so_and_not_by_the_task(
    tmp_path: Path,
) -> None:
    """The task's own functions know nothing of the files."""
    prepare(tmp_path, 1, "own:task")
    (tmp_path / "own.py").write_text(
        "from dataclasses import replace\n"
        "from edge_sdk.zoo.tasks.digits import task as digits\n\n"
        "def never(folder):\n    raise AssertionError(folder)\n\n"
        "task = replace(digits, train_data=never, eval_data=never)\n"
    )
    settings = (tmp_path / "sim.toml").read_text()
    more = settings.replace("cohort = 3\n", "partitions = true\ncohort = 3\n")
    (tmp_path / "sim.toml").write_text(more)
    for pool in ("ray", "processes"):
        run = command(tmp_path / pool, "--workers", "1", "--pool", pool)
        subprocess.run(run, cwd=tmp_path, check=True, capture_output=True)
    assert told(tmp_path / "ray") == told(tmp_path / "processes")
