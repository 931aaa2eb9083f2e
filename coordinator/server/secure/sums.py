"""The sum of a secure round, as the ledger keeps it: one update for each density."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

import msgspec
import numpy as np
from msgspec import UNSET

from coordinator.algorithms.base import MaskFamily
from coordinator.algorithms.mean import Model
from coordinator.ledger import SECURE_SUM, UpdateRow
from coordinator.rounds.secure.orders import ladder
from coordinator.rounds.secure.stages import SecureState, from_rows
from coordinator.rounds.secure.unmask import SecureCohort, unmasked
from edge_sdk.errors import RemoteProtocolError, RunError
from edge_sdk.sparse import Mask
from edge_sdk.wire.codec import pack, unpack
from edge_sdk.wire.messages import TaskOrder
from edge_sdk.wire.secure.fixed_point import Ring, unpack_ring
from edge_sdk.wire.secure.layout import unflat
from edge_sdk.wire.values import pack_values

__all__ = ["Unmasking", "fits", "keep_sum", "kept_sum", "summed_rows", "unmask_again"]


class Unmasking(msgspec.Struct, frozen=True):
    """Messages that a sum is read with, kept beside the masked updates.

    It has what the coordinator was told to read the sum, and no share that was not
    revealed: whoever has it and the masked updates learns their sum.

    Attributes:
        orders: Device to its order, packed.
        rows: (device, kind, content) of the ledger: keys, neighbours, what is revealed.
    """

    orders: dict[str, bytes]
    rows: list[tuple[str, str, bytes]]


class SumMemory(Protocol):
    """Durable store of JSON values: the ledger, or a proof in its place."""

    def get(self, key: str) -> Any:
        """A stored value, or None."""
        ...


class MaskedUpdates(SumMemory, Protocol):
    """The masked updates of rounds: a ledger, or a proof in its place."""

    def frozen(self, no: int) -> list[UpdateRow]:
        """The updates that are in a round's sum, by device."""
        ...

    def blob(self, name: str) -> bytes:
        """The payload that a row names."""
        ...

    def store(self, content: bytes) -> str:
        """Keeps a blob; returns its SHA-256 in hex."""
        ...

    def secure(self, no: int) -> list[tuple[str, str, bytes]]:
        """(device, kind, content) of what a secure round's devices have said."""
        ...

    def keep_sum(self, no: int, means: Sequence[Sequence[object]], blob: str) -> None:
        """Keeps the sum of a round."""
        ...


def kept_sum(memory: SumMemory, no: int) -> list[Any] | None:
    """The densities, blobs and weights of a round's sum; None before it is kept."""
    kept = memory.get(SECURE_SUM)
    return kept["means"] if kept is not None and kept["round"] == no else None


def summed_rows(
    memory: SumMemory, no: int, rows: Sequence[UpdateRow]
) -> list[UpdateRow]:
    """The rows that a round's model is made of: the mean on each density's mask.

    Each weighs what the devices of that density weigh, so that a mean over them is the
    mean over all devices that held a weight.

    Args:
        memory: The ledger.
        no: The round.
        rows: Of its masked updates.

    Raises:
        RunError: If its sum is not there.
    """
    kept = kept_sum(memory, no)
    if kept is None:
        raise RunError(f"round {no} has no sum of its masked updates")
    steps = [row.metrics.get("steps", 0.0) for row in rows]
    metrics = {"steps": float(np.mean(steps))} if steps else {}
    return [
        UpdateRow(
            task=f"{no}-sum-{at}",
            device="",
            density=float(density),
            blob=str(blob),
            examples=max(1, round(weight)),
            norm=0.0,
            metrics=metrics,
            scale=1.0,
            weight=float(weight),
        )
        for at, (density, blob, weight) in enumerate(kept)
    ]


def keep_sum(
    ledger: MaskedUpdates, no: int, state: SecureState, base: Model, family: MaskFamily
) -> list[str]:
    """Take the masks away and keep the mean, durably; return who gave a wrong share.

    A sum with noise is shared out over a number that was known before: how many are in
    it would tell of them.

    Args:
        ledger: Where the masked updates are.
        no: The round.
        state: With what devices have revealed.
        base: What the updates are a change to.
        family: The round's masks.

    Raises:
        RunError: If the masks cannot be taken away, or a sum is beyond what the
            devices' clips allow.
    """
    rows = {row.device: row for row in ledger.frozen(no)}
    cohort, levels = state.cohort(), state.levels
    densities = ladder(family)
    masks = [family.masks[density] for density in densities]
    how = max(
        (o.secure for o in state.orders.values() if o.secure is not None),
        key=lambda secure: len(secure.sizes),
    )
    units = {} if how.units is UNSET else how.units

    def vectors() -> Any:
        for device, row in rows.items():
            mask = family.of(device, row.density)
            yield device, _vector(ledger, cohort, row, mask)

    sums, counts, liars = unmasked(cohort, vectors(), state.revealed)
    noise = state.noise
    reach = 0.0 if noise is None else NOISE_REACH * noise.part
    if (np.abs(sums) > how.steps * counts + reach * np.sqrt(counts)).any():
        raise RunError(
            "a sum is beyond the clip times its devices: one of them did not clip"
        )
    weights = {
        device: min(row.examples, how.most_examples) / how.most_examples
        for device, row in rows.items()
    }
    total = np.zeros(sums.size)
    for device, weight in weights.items():
        total[: cohort.sizes[levels[device] - 1]] += weight
    mean = np.zeros(sums.size)
    over = total if noise is None else np.full(sums.size, float(noise.cohort))
    np.divide(sums * (how.clip / how.steps), over, out=mean, where=total > 0)
    kept = []
    dense = {n: a for n, a in base.travelling.items() if a.dtype.kind == "f"}
    whole = {n: np.zeros_like(a) for n, a in base.travelling.items() if n not in dense}
    for level in sorted({levels[device] for device in rows}):
        part, own_mask = mean[: cohort.sizes[level - 1]], masks[level - 1]
        values = unflat(part, masks[: level - 1], own_mask, dense, units)
        values = replace(values, dense={**values.dense, **whole})
        blob = ledger.store(pack_values(values, own_mask))
        own = sum(weights[d] for d in rows if levels[d] == level)
        kept.append([densities[level - 1], blob, own * how.most_examples])
    orders = {device: pack(order) for device, order in state.orders.items()}
    said = [row for row in ledger.secure(no) if row[1] not in _ENCRYPTED]
    ledger.keep_sum(no, kept, ledger.store(pack(Unmasking(orders, said))))
    return liars


def unmask_again(
    memory: MaskedUpdates, no: int, packed: bytes, base: Model, family: MaskFamily
) -> Mapping[str, bytes]:
    """Take the masks of a round away again, from what was kept of it.

    Args:
        memory: With its masked updates; it gets their sum.
        no: The round.
        packed: An `Unmasking`.
        base: What the updates are a change to.
        family: The round's masks.

    Returns:
        Device to its order, packed, as the sum was read with.

    Raises:
        RunError: As `keep_sum`; or it is no `Unmasking`.
    """
    try:
        kept = unpack(packed, Unmasking)
        orders = {device: unpack(o, TaskOrder) for device, o in kept.orders.items()}
        state = from_rows(orders, kept.rows)
        keep_sum(memory, no, state, base, family)
    except (RemoteProtocolError, LookupError, ValueError) as error:
        raise RunError(f"what unmasks the sum cannot be read: {error}") from error
    return kept.orders


NOISE_REACH = 12.0  # deviations: noise is beyond with a chance below 1e-32
_ENCRYPTED = ("shares", "sum")  # what devices told each other; names of blobs


def fits(
    ledger: MaskedUpdates, state: SecureState, family: MaskFamily, row: UpdateRow
) -> bool:
    """Return whether a masked update is as long as its device was asked for."""
    if row.device not in state.levels:
        return False
    with contextlib.suppress(RunError):
        mask = family.of(row.device, row.density)
        return bool(_vector(ledger, state.cohort(), row, mask).size)
    return False


def _vector(
    ledger: MaskedUpdates, cohort: SecureCohort, row: UpdateRow, mask: Mask
) -> Ring:
    size = cohort.sizes[cohort.levels[row.device] - 1]
    try:
        return unpack_ring(ledger.blob(row.blob), mask.digest, cohort.bits, size)
    except RemoteProtocolError as error:
        raise RunError(f"the masked update of {row.device}: {error}") from error
