"""Figures of a running federation: models, tests, memory, ledger; read from outside."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from coordinator.algorithms.mean import Model
from coordinator.checkpoints.models import ModelStore, model_name
from coordinator.demo.living.sensors import NEW, REFERENCE, TASK
from coordinator.ledger import read_ledger
from coordinator.ledger.device_rows import TOGETHER
from coordinator.rounds.state import RoundPhase
from edge_sdk.checkpoint import Checkpoint, save_checkpoint
from edge_sdk.device.probe.ram import read_fields
from edge_sdk.errors import CheckpointError, StateError
from edge_sdk.tasks.layers import layers_of, make_model
from edge_sdk.tasks.task import Examples

__all__ = ["Seen", "Watch", "accuracy_of", "trained_anew"]

STEPS, RATE = 600, 0.05  # of a model trained anew; more steps gave less than .1 points


@dataclass
class Seen:
    """One round's model: on the devices, and on the hidden set.

    Attributes:
        round: The round that gave it.
        hidden: Accuracy on the hidden set.
        old: On those of its examples whose class was there from the start.
        new: On the others; None before there are any.
        devices: Accuracy over all devices' tests; None until they have answered.
    """

    round: int
    hidden: float
    old: float
    new: float | None
    devices: float | None = None


@dataclass
class Watch:
    """Looks at a run's folder and at its coordinator's process.

    Attributes:
        run: The run's folder.
        pid: The coordinator's.
        seen: The models looked at, by round.
        models: Those that `model` has found: their files are gone three rounds later.
    """

    run: Path
    pid: int
    seen: dict[int, Seen] = field(default_factory=dict)
    models: dict[int, Model] = field(default_factory=dict)

    @property
    def last_round(self) -> int:
        """Number of the last round that gave a model; 0 before the first.

        Rounds that were given up have numbers, too, so it is no count.
        """
        try:
            ledger = read_ledger(self.run)
        except StateError:  # it is being made
            return 0
        with closing(ledger):
            done = (r.no for r in ledger.rounds() if r.phase is RoundPhase.DONE)
            return max(done, default=0)

    def model(self, no: int) -> Model | None:
        """A round's model; None if its file is gone or not there yet."""
        if no not in self.models:
            layers = layers_of(make_model(TASK, 0), TASK.dense_layers)
            store = ModelStore(self.run, REFERENCE, layers)
            try:
                self.models[no] = store.load(model_name(no))
            except (StateError, CheckpointError):
                return None
        return self.models[no]

    def look(self, hidden: Examples) -> Seen | None:
        """The newest model on the hidden set; None while it cannot be read."""
        no = self.last_round
        model = self.model(no)
        if not no or model is None:
            return None
        right = accuracy_of(module_of(model), hidden)
        old = hidden.targets != NEW
        new = float(right[~old].mean()) if not old.all() else None
        self.seen[no] = Seen(no, float(right.mean()), float(right[old].mean()), new)
        return self.seen[no]

    def tests(self, no: int) -> tuple[int, float | None]:
        """Count of the devices that have tested a round's model, and their figure."""
        ledger = read_ledger(self.run)
        try:
            rows = [r for r in ledger.evaluation_values() if r.round == no]
        finally:
            ledger.close()
        whole = [r.metrics["accuracy"] for r in rows if r.device == TOGETHER]
        return len(rows) - len(whole), whole[0] if whole else None

    def trained(self, no: int) -> set[str]:
        """Devices whose updates are in a round's model."""
        ledger = read_ledger(self.run)
        try:
            return {row.device for row in ledger.frozen(no)}
        finally:
            ledger.close()

    def worse(self, first: int, last: int) -> list[int]:
        """Rounds among these whose models are marked as worse."""
        ledger = read_ledger(self.run)
        try:
            return [no for no in range(first, last + 1) if ledger.worse(no)]
        finally:
            ledger.close()

    def save(self, no: int, name: str) -> Path | None:
        """Writes a round's model as one to export; None if it is gone."""
        model = self.model(no)
        if model is None:
            return None
        layers = layers_of(make_model(TASK, 0), TASK.dense_layers)
        path = self.run / "models" / f"{name}.safetensors"
        path.parent.mkdir(exist_ok=True)
        values = Checkpoint(
            task=REFERENCE,
            round_no=no,
            layers=layers,
            mask=model.mask,
            values=dict(model.masked),
            dense=dict(model.dense),
            metrics={},
        )
        save_checkpoint(path, values)
        return path

    def ledger_bytes(self) -> int:
        """Bytes of the ledger's pages and its blobs.

        The write-ahead log is left out: its size is a bound, reached early, beside
        which nothing would be seen to grow.
        """
        with closing(sqlite3.connect(self.run / "ledger.sqlite")) as db:
            pages = db.execute("PRAGMA page_count").fetchone()[0]
            page = db.execute("PRAGMA page_size").fetchone()[0]
        blobs = sum(_size(path) for path in (self.run / "blobs").rglob("*"))
        return int(pages * page + blobs)

    def memory_mib(self) -> float:
        """Resident memory of the coordinator, MiB."""
        return read_fields(Path(f"/proc/{self.pid}/status")).get("VmRSS", 0) / 1024


def module_of(model: Model) -> nn.Module:
    """The network with a model's values, in evaluation mode."""
    net = make_model(TASK, 0).eval()
    values: dict[str, NDArray[Any]] = {n: model.full(n) for n in model.masked}
    state = {n: torch.from_numpy(np.array(a)) for n, a in values.items()}
    state |= {n: torch.from_numpy(np.array(a)) for n, a in model.dense.items()}
    net.load_state_dict(state)
    return net


def accuracy_of(net: nn.Module, examples: Examples) -> NDArray[np.bool_]:
    """(n,) whether each answer is right."""
    with torch.inference_mode():
        scores = net(torch.from_numpy(np.asarray(examples.inputs)))
    found: NDArray[np.bool_] = scores.argmax(1).numpy() == examples.targets
    return found


def trained_anew(training: Examples, hidden: Examples, seed: int = 1) -> float:
    """Accuracy of a dense model trained from scratch on all devices' data at once."""
    net = make_model(TASK, seed)
    inputs = torch.from_numpy(np.asarray(training.inputs))
    targets = torch.from_numpy(np.asarray(training.targets))
    state = net.state_dict()
    state["mean"] = inputs.mean(dim=(0, 2))[:, None]
    state["deviation"] = inputs.std(dim=(0, 2))[:, None]
    net.load_state_dict(state)
    steps = torch.optim.SGD(net.parameters(), lr=RATE, momentum=0.9)
    rng = np.random.default_rng(seed)
    for _ in range(STEPS):
        batch = torch.from_numpy(rng.integers(0, len(inputs), 256))
        steps.zero_grad()
        torch.autograd.backward(TASK.loss(net(inputs[batch]), targets[batch]))
        steps.step()
    return float(accuracy_of(net.eval(), hidden).mean())


def _size(path: Path) -> int:
    try:
        return path.stat().st_size if path.is_file() else 0
    except OSError:
        return 0
