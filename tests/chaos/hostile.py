"""Hostile devices by seed: `python tests/chaos/hostile.py --seeds 10 --json FILE`.

A real coordinator and twenty real agents, each on its thread, over the in-memory
broker, on a task of Gaussian blobs. Five of the twenty are hostile, of kinds drawn by
the seed. The same run without them is the control. Prints, seed by seed, both
accuracies, which kinds took part, and who of them the coordinator did not name; ends
with 1 if the coordinator died, somebody hostile was not named, or accuracy fell by more
than a point.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1]))

from in_threads import run_around
from lying import Change, Liar
from patience import patience

from coordinator.ledger import open_ledger
from coordinator.server.loop import Server
from coordinator.settings import CodecSettings, RunSettings, TrainingSettings
from device_profiles import load_board
from edge_sdk.agent import Agent, Identity
from edge_sdk.errors import DataError
from edge_sdk.json_text import to_json
from edge_sdk.storage.journal import Journal
from edge_sdk.tasks.task import Examples, Task
from edge_sdk.training.runner import TaskRunner
from edge_sdk.training.update import PackedUpdate
from edge_sdk.transport.memory import MemoryBroker
from edge_sdk.wire import topics
from edge_sdk.wire.codec import Header, encode, tag_of
from edge_sdk.wire.messages import Hello, Message, Status, TaskOrder
from edge_sdk.wire.values import Values

__all__ = ["KINDS", "Outcome", "run_seed"]

FEDERATION, REFERENCE = "hostile", "blobs"
CLASSES, INPUTS = 8, 16
FAST = 20.0  # how much faster the coordinator's clock goes: graces are for real links
# Slower where the machine is: a round that its deadline closes with half of its devices
# gives each of the hostile twice the weight.
BOARD: dict[str, Any] = msgspec.to_builtins(load_board("raspberry_pi_4b_4gb"))


@dataclass(frozen=True)
class Outcome:
    """What a seed came to.

    Attributes:
        hostile: Device to its kind.
        unnamed: Hostile devices that no refusal, reason or warning names.
        accuracy: Of the run with them; `control` without.
        rounds: Rounds done, of those wanted.
        died: What the coordinator died of; empty if it came to its end.
    """

    seed: int
    hostile: dict[str, str]
    unnamed: list[str]
    accuracy: float
    control: float
    rounds: int
    died: str
    seconds: float


# -- the task ------------------------------------------------------------------------


def _module() -> nn.Module:
    return nn.Sequential(
        nn.Linear(INPUTS, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, CLASSES)
    )


def _blobs(seed: int, count: int, *, skew: float = 0.0) -> Examples:
    """Points around eight centres, the same for all; `skew` favours one class."""
    centres = np.random.default_rng(5).normal(size=(CLASSES, INPUTS))
    rng = np.random.default_rng(seed)
    share = np.full(CLASSES, (1 - skew) / CLASSES)
    share[seed % CLASSES] += skew
    labels = rng.choice(CLASSES, size=count, p=share)
    points = centres[labels] + 0.6 * rng.normal(size=(count, INPUTS))
    return Examples(points.astype(np.float32), labels.astype(np.int64))


TASK = Task(
    name=REFERENCE,
    model=_module,
    loss=nn.functional.cross_entropy,
    train_data=lambda _: _blobs(1, 64),
    eval_data=lambda _: _blobs(999, 800),
    input_shape=(INPUTS,),
    batch_size=16,
)


# -- the hostile kinds ---------------------------------------------------------------


def _with(entry: str, value: float) -> Change:
    def change(values: Values, _order: TaskOrder) -> Values:
        dense = {
            n: np.full_like(a, value) if n.endswith(entry) else a
            for n, a in values.dense.items()
        }
        return replace(values, dense=dense)

    return change


def _times(factor: float) -> Change:
    def change(values: Values, _order: TaskOrder) -> Values:
        masked = {n: np.float32(factor) * a for n, a in values.masked.items()}
        dense = {
            n: np.float32(factor) * a if a.dtype.kind == "f" else a
            for n, a in values.dense.items()
        }
        for name, array in dense.items():
            if name.endswith("running_var"):  # so that the gate lets it in
                np.abs(array, out=array)
        return replace(values, masked=masked, dense=dense)

    return change


def _largest(values: Values, _order: TaskOrder) -> Values:
    return replace(
        values, masked={n: np.full_like(a, 3e38) for n, a in values.masked.items()}
    )


class NegativeVariance(Liar):
    change = staticmethod(_with("running_var", -3.0))


class WildCounter(Liar):
    change = staticmethod(_with("num_batches_tracked", 2**62))


class LargestFloats(Liar):
    change = staticmethod(_largest)


class Opposite(Liar):
    """The step backwards, ten times as long, of ten times the examples."""

    change = staticmethod(_times(-10.0))
    claims = 10


class AlwaysFails(TaskRunner):
    def run(
        self,
        order: TaskOrder,
        base: bytes,
        stop: Callable[[], bool],
        structure: bytes = b"",
    ) -> PackedUpdate:
        raise DataError("the examples of this device cannot be read")


class Silent(TaskRunner):
    """Takes its tasks, answers none, and says the old will of a neighbour again."""

    say: Callable[[str, Message], None]
    neighbour: str = ""

    def run(
        self,
        order: TaskOrder,
        base: bytes,
        stop: Callable[[], bool],
        structure: bytes = b"",
    ) -> PackedUpdate:
        while not stop():
            self.say(self.neighbour, Status(online=False, phase="idle"))
            time.sleep(0.2)
        return super().run(order, base, stop, structure)


# Kind of the issue it stands for -> what runs the tasks; None has no agent at all.
KINDS: dict[str, type[TaskRunner] | None] = {
    "numbers": None,
    "negative-variance": NegativeVariance,
    "wild-counter": WildCounter,
    "largest-floats": LargestFloats,
    "opposite": Opposite,
    "always-fails": AlwaysFails,
    "flood": None,
    "silent": Silent,
}


def _hello(examples: int) -> Hello:
    return Hello(
        *("idle", None, "1", REFERENCE, examples, BOARD, ["fp32"], ["masked"], 1000)
    )


class Speaker:
    """Says on the broker what a device could say, without an agent."""

    def __init__(self, broker: MemoryBroker) -> None:
        self._link = broker.connect(lambda _: None, lambda _: None)
        self._seq, self._boot = 0, 7

    def say(self, device: str, message: Message) -> None:
        self._seq += 1
        header = Header(
            *(tag_of(message), FEDERATION, device, "coordinator", 0, self._seq),
            boot=self._boot,
        )
        topic = (
            topics.status(FEDERATION, device)
            if isinstance(message, Status)
            else topics.upload(FEDERATION, device, 0, data=False)
        )
        self._link.publish(topic, encode(header, message))


def _numbers(speaker: Speaker, device: str) -> float:
    """What cannot be, of several kinds; returns how long to wait."""
    for examples in (10**10, 2**63, 2**64 - 1):
        speaker.say(device, _hello(examples))
    profile = {**BOARD, "train_gflops": 1e-300, "ram_mib": 1 << 60}
    speaker.say(device, msgspec.structs.replace(_hello(100), profile=profile))
    speaker.say(device, Status(online=True, phase="idle", sent=2**63))
    return 0.3


def _flood(speaker: Speaker, device: str) -> float:
    for _ in range(50):
        speaker.say(device, _hello(100))
    return 0.1


SCRIPTS = {"numbers": _numbers, "flood": _flood}


# -- a run -----------------------------------------------------------------------------


class Named(logging.Handler):
    """Devices that a warning of the coordinator names."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.name.startswith("coordinator"):
            self.lines.append(record.getMessage())


def run_seed(seed: int, *, devices: int = 20, hostile: int = 5, rounds: int) -> Outcome:
    """A run with hostile devices, and the same without."""
    began = time.monotonic()
    rng = np.random.default_rng(seed)
    drawn = [str(kind) for kind in rng.permutation(list(KINDS))[:hostile]]
    names = [f"pi-{place}" for place in range(devices)]
    bad = dict(zip(rng.permutation(names).tolist(), drawn, strict=False))
    control, _, _, _ = _run(seed, [n for n in names if n not in bad], {}, rounds)
    accuracy, done, unnamed, died = _run(seed, names, bad, rounds)
    took = time.monotonic() - began
    return Outcome(seed, bad, unnamed, accuracy, control, done, died, round(took, 1))


def _run(
    seed: int, names: list[str], bad: dict[str, str], rounds: int
) -> tuple[float, int, list[str], str]:
    """Accuracy, rounds done, hostile devices nobody named, what it died of."""
    torch.set_num_threads(1)
    fast = FAST / patience(1.0)
    broker, stop = MemoryBroker(), threading.Event()
    speaker, named = Speaker(broker), Named()
    honest = [name for name in names if name not in bad]  # one of them is spoken for
    logging.getLogger().addHandler(named)
    settings = RunSettings(
        federation=FEDERATION,
        task=REFERENCE,
        evaluation=Path(),
        densities=[0.5],
        rounds=rounds,
        algorithm="erk",
        seed=seed,
        wait_for=len(names) - len(bad),
        training=TrainingSettings(epochs=2, rate=0.1, rate_end=0.05),
        codec=CodecSettings(up="fp32", down="fp32", zstd=False),
    )
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        ledger = open_ledger(folder / "run")
        server = Server(
            settings,
            TASK,
            TASK.eval_data(Path()),
            ledger,
            broker.connect,
            clock=lambda: fast * time.monotonic(),
        )
        agents = [
            _agent(name, seed, bad.get(name, ""), broker, folder, speaker, honest[0])
            for name in names
            if bad.get(name) not in SCRIPTS
        ]
        scripts = [
            threading.Thread(target=_play, args=(SCRIPTS[kind], name, broker, stop))
            for name, kind in bad.items()
            if kind in SCRIPTS
        ]
        for script in scripts:
            script.start()
        died = ""
        try:
            run_around(server, agents)
        except Exception as error:  # noqa: BLE001 - that is what is looked for
            died = f"{type(error).__name__}: {error}"
        finally:
            stop.set()
            for script in scripts:
                script.join()
            logging.getLogger().removeHandler(named)
        with closing(ledger):
            said = {row.device for row in ledger.refused()}
            said |= {d.name for d in ledger.devices() if d.pace or d.note}
            scores, done = ledger.scores(), ledger.rounds_done()
        lines = "\n".join(named.lines).replace(":", " ").replace(",", " ").split()
        unnamed = sorted(set(bad) - said - set(lines))
    last = scores[max(scores)] if scores else {}
    accuracy = next(iter(last.values()))["accuracy"] if last else 0.0
    return float(accuracy), done, unnamed, died


def _agent(
    name: str,
    seed: int,
    kind: str,
    broker: MemoryBroker,
    folder: Path,
    say: Speaker,
    neighbour: str,
) -> Agent:
    own = int(name.removeprefix("pi-"))
    count = int(np.random.default_rng([seed, own]).integers(48, 160))
    examples = _blobs(1000 * seed + own, count, skew=0.3)
    runner = (KINDS.get(kind) or TaskRunner)(TASK, examples, "masked")
    claims = runner.claims if isinstance(runner, Liar) else 1
    if isinstance(runner, Silent):
        runner.say = say.say
        runner.neighbour = neighbour
    me = Identity(name, FEDERATION, REFERENCE, claims * count, BOARD)
    return Agent(me, broker.connect, Journal(folder / name), runner)


def _play(
    script: Callable[[Speaker, str], float],
    name: str,
    broker: MemoryBroker,
    stop: threading.Event,
) -> None:
    speaker = Speaker(broker)
    while not stop.wait(script(speaker, name)):
        pass


def main() -> int:
    """Runs the seeds and prints what each came to."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--first", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    logging.getLogger().addHandler(logging.NullHandler())
    found = []
    for seed in range(asked.first, asked.first + asked.seeds):
        found.append(one := run_seed(seed, rounds=asked.rounds))
        print(
            f"seed {seed}: {100 * one.accuracy:.2f} % with, {100 * one.control:.2f} % "
            f"without; {one.rounds} rounds; {', '.join(sorted(one.hostile.values()))}; "
            f"unnamed: {', '.join(one.unnamed) or 'nobody'}; {one.seconds:.0f} s"
            f"{'; DIED ' + one.died if one.died else ''}",
            flush=True,
        )
    lost = [100 * (one.control - one.accuracy) for one in found]
    print(f"points lost: mean {statistics.fmean(lost):.2f}, most {max(lost):.2f}")
    if asked.json:
        asked.json.parent.mkdir(parents=True, exist_ok=True)
        asked.json.write_text(to_json([asdict(one) for one in found], indent=2))
    bad = [one for one in found if one.died or one.unnamed]
    return int(bool(bad) or max(lost) > 1.0)


if __name__ == "__main__":
    sys.exit(main())
