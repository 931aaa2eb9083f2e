"""Models of a run on disk: checkpoints in, checkpoints out."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any, Protocol

from coordinator.algorithms.base import MaskFamily
from coordinator.algorithms.mean import Model, State
from coordinator.algorithms.privacy.budget import SPENT
from coordinator.checkpoints.masks import pack_family, unpack_family
from coordinator.checkpoints.norms import norms_as_state, with_state_and_norms
from edge_sdk.checkpoint import (
    Checkpoint,
    checkpoint_bytes,
    load_checkpoint,
    replace_listed,
)
from edge_sdk.checksums import file_digest
from edge_sdk.errors import StateError
from edge_sdk.json_text import to_json
from edge_sdk.sparse import LayerShape, Mask

__all__ = ["KEEP", "Memory", "ModelStore", "model_name"]

KEEP = 3  # rounds whose checkpoint stays; the last one is what resume starts from


def model_name(round_no: int) -> str:
    """File name of the model after a round; round 0 is where training starts."""
    return f"round-{round_no:05d}.safetensors"


class Memory(Protocol):
    """Durable store of digests: the ledger."""

    def get(self, key: str) -> Any:
        """A stored value, or None."""
        ...

    def put(self, key: str, value: Any) -> None:
        """Stores a JSON value."""
        ...

    def beside(self, write: Callable[[], None]) -> None:
        """Has a file written; it is durable before what is put is."""
        ...


class ModelStore:
    """Checkpoints in a run's folder.

    Rule 1. The digest of what training goes on from is in the memory with the end of
            its round at the latest, and the file on the disk before that; a round that
            a crash repeats gives the same bytes.
    Rule 2. Beside each file `SHA256SUMS` lists it, for who has no ledger.
    Rule 3. What neither knows comes from an older version and is not checked.

    Args:
        folder: The run's folder.
        task: The task's reference, written into each checkpoint.
        layers: The model's maskable layers.
        memory: Where digests are kept; None for a simulation, which has no ledger.
    """

    def __init__(
        self,
        folder: Path,
        task: str,
        layers: tuple[LayerShape, ...],
        memory: Memory | None = None,
    ) -> None:
        self._folder, self._task, self._layers = folder, task, layers
        self._memory = memory

    def save(self, name: str, model: Model, round_no: int) -> str:
        """Writes the global model and its algorithm's state; returns its file name."""
        path = self._folder / "checkpoints" / name
        kept = {**model.state, **norms_as_state(model)}
        self._write(path, model, model.mask, round_no, {}, kept)
        return name

    def load(self, name: str) -> Model:
        """Reads a global model back.

        Raises:
            CheckpointError: If it is damaged.
            StateError: If it is gone, or not what the ledger says was written.
        """
        path = self._folder / "checkpoints" / name
        if not path.exists():
            raise _not_there(self._folder / "ledger.sqlite", path)
        self._check(path)
        found = load_checkpoint(path)
        model = Model(found.mask, found.values, found.dense, {}, gain=found.gain)
        return with_state_and_norms(model, found.memory)

    def save_family(self, round_no: int, family: MaskFamily) -> None:
        """Writes the masks that training goes on with after a round that moved them."""
        self._replace(self._masks(round_no), pack_family(family))

    def load_family(self, round_no: int) -> MaskFamily | None:
        """The newest masks written up to a round, or None if none ever moved.

        Raises:
            StateError: If their file is damaged.
        """
        written = {int(path.stem[-5:]): path for path in self._masks_there()}
        until = [no for no in written if no <= round_no]
        if not until:
            return None
        self._check(written[max(until)])
        return unpack_family(written[max(until)], self._layers)

    def prune(self, round_no: int) -> None:
        """Deletes checkpoints that nothing resumes from any more."""
        if round_no <= KEEP:
            return
        old = self._folder / "checkpoints" / model_name(round_no - KEEP)
        old.unlink(missing_ok=True)
        past = sorted(self._masks_there())
        needed = self._masks(round_no - KEEP)
        for path, newer in itertools.pairwise(past):
            if newer <= needed:  # a round that is kept goes on from the newer one
                path.unlink()

    def _masks(self, round_no: int) -> Path:
        return self._folder / "checkpoints" / f"round-{round_no:05d}.masks"

    def _masks_there(self) -> list[Path]:
        return list((self._folder / "checkpoints").glob("round-*.masks"))

    def deploy(
        self,
        model: Model,
        family: MaskFamily,
        round_no: int,
        scores: Mapping[float, Mapping[str, float]],
        *,
        name: str = "density",
        only: float | None = None,
    ) -> dict[float, Path]:
        """Writes one checkpoint per density, to export from.

        Args:
            model: On the family's top mask.
            family: Its masks.
            round_no: The round that gave the model.
            scores: Density to metrics.
            name: What the files' names begin with: ``density``, ``last``, ``best``.
            only: The one density to write; None for all.
        """
        written = {}
        for density, mask in family.masks.items():
            if only not in {None, density}:
                continue
            path = self._folder / "models" / f"{name}-{density:g}.safetensors"
            metrics = scores.get(density, {})
            told = self._memory.get(SPENT) if self._memory is not None else None
            privacy = to_json(told) if told else ""
            self._write(path, model, mask, round_no, metrics, privacy=privacy)
            written[density] = path
        return written

    def deploy_best(self, densities: Iterable[float]) -> None:
        """Puts the best model of each density in the place of the one to deploy."""
        folder = self._folder / "models"
        for density in densities:
            best = folder / f"best-{density:g}.safetensors"
            if best.exists():
                content = best.read_bytes()
                self._replace(folder / f"density-{density:g}.safetensors", content)

    def _write(
        self,
        path: Path,
        model: Model,
        mask: Mask,
        round_no: int,
        metrics: Mapping[str, float],
        state: State | None = None,
        privacy: str = "",
    ) -> None:
        values = model.on(mask)
        written = Checkpoint(
            task=self._task,
            round_no=round_no,
            layers=self._layers,
            mask=mask,
            values=values.masked,
            dense=values.dense,
            metrics=metrics,
            memory=state or {},
            gain=model.gain if mask is model.mask else 0.0,
            personal=tuple(sorted(model.personal)),
            adapters=model.adapters,
            privacy=privacy,
        )
        self._replace(path, checkpoint_bytes(written))

    def _replace(self, path: Path, content: bytes) -> None:
        digest = sha256(content).hexdigest()
        memory = self._memory if path.parent.name == "checkpoints" else None
        if memory is None:
            replace_listed(path, content, digest)
            return
        memory.beside(partial(replace_listed, path, content, digest))
        if memory.get(_key(path)) != digest:
            memory.put(_key(path), digest)

    def _check(self, path: Path) -> None:
        known = None if self._memory is None else self._memory.get(_key(path))
        if known is None or not path.exists() or file_digest(path) == known:
            return
        raise StateError(
            f"{path} is not what the ledger says was written: the file was damaged or "
            "changed since",
            remedy="Restore it from a copy of the folder, or start the run in a new "
            "one. Then check the disk and the memory of this machine.",
        )


def _key(path: Path) -> str:
    return f"sha256 of {path.name}"


def _not_there(ledger: Path, path: Path) -> StateError:
    """The error of a checkpoint that the ledger names and that is not on the disk."""
    newest = max((p.name for p in path.parent.glob("round-*.safetensors")), default="")
    if newest > path.name:
        return StateError(
            f"{ledger} continues from {path.name} and the newest checkpoint is "
            f"{newest}: "
            "the ledger has lost its latest entries, as when its -wal file was cut "
            "off or left behind, or an older copy was put in its place",
            remedy="Put ledger.sqlite and ledger.sqlite-wal of one moment back, best "
            "with the whole folder; without a copy, start in a new folder.",
        )
    return StateError(
        f"{path} is gone, and {ledger} continues from it",
        remedy="Put it back from a copy; without one, start in a new folder.",
    )
