"""Messages of a device's task: its order, the update, and what became of it."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from msgspec import UNSET, Meta, Struct, UnsetType

from edge_sdk.consent import Consent
from edge_sdk.wire.evaluation import BaseTest, BaseTested
from edge_sdk.wire.named import (
    Count,
    Digest,
    Holdout,
    Manifest,
    MaskRecipe,
    TaskId,
    Why,
)
from edge_sdk.wire.rules import LocalRule
from edge_sdk.wire.secure.messages import SecureRound

__all__ = [
    "Cancel",
    "Data",
    "Fail",
    "Need",
    "Offer",
    "Receipt",
    "TaskAck",
    "TaskOrder",
    "Training",
    "Verdict",
]


class Training(Struct, frozen=True):
    """Local training: SGD on the task's loss.

    `max_steps` bounds one task's steps (0: whole epochs); `seed` orders the examples.
    A `learning_rate` of 0 moves no weight: norm statistics alone are measured.
    `power` has the kept values trained as a power of what SGD moves (absent: 1);
    `clip` bounds the norm of a step's gradient (absent: no bound).
    """

    epochs: Annotated[int, Meta(ge=1)]
    batch_size: Annotated[int, Meta(ge=1)]
    learning_rate: Annotated[float, Meta(ge=0)]
    momentum: Annotated[float, Meta(ge=0, lt=1)] = 0.0
    weight_decay: Annotated[float, Meta(ge=0)] = 0.0
    max_steps: Count = 0
    seed: Count = 0
    power: Annotated[float, Meta(gt=1, le=4)] | UnsetType = UNSET
    clip: Annotated[float, Meta(gt=0)] | UnsetType = UNSET


class TaskOrder(Struct, frozen=True, tag="task", omit_defaults=True):
    """Coordinator to device: its part of one round.

    Where `moves` is set, training may move the mask: the update stands on a mask of its
    own, no larger than the task's, whose structure is in the update's payload.
    `program` is the blob of the model's training program, for a device without torch.
    `parts` is the blob of the entries that stay apart (`edge_sdk.wire.parts`): they are
    in no base and in no update. `after` is the task whose update of this device was the
    last to count: its personal entries are what they were then.
    `holdout` is the share of its examples that it does not train on, to test models on,
    and the seed of their choice; absent for none. `secure` has the update masked, so
    that only sums of updates can be read. `test` has the base tested beside the task,
    on the holdout; absent for a device that tests nothing. `chunk_size` is the most
    bytes that a chunk of the update may have, where the device's broker takes it.
    An update of at most `unasked` bytes is sent behind its offer, without a NEED.
    """

    id: TaskId
    round_no: Count
    density: Annotated[float, Meta(gt=0, le=1)]
    base: Manifest
    mask: MaskRecipe
    rule: LocalRule
    training: Training
    ttl_ms: Count
    shard: Count
    codec: str
    moves: bool = False
    program: Manifest | None = None
    parts: Manifest | None = None
    after: Annotated[str, Meta(max_length=64)] = ""
    holdout: Holdout | None = None
    secure: SecureRound | None = None
    test: BaseTest | None = None
    chunk_size: Annotated[int, Meta(ge=1 << 16, le=1 << 18)] = 1 << 16
    unasked: Annotated[int, Meta(ge=0, le=1 << 18)] = 0


class TaskAck(Struct, frozen=True, tag="task-ack"):
    """Device to coordinator: the task is journalled.

    `tested` answers the test that came with the device's task before; absent of one
    without a test.
    """

    task_id: TaskId
    tested: BaseTested | UnsetType = UNSET


class Fail(Struct, frozen=True, tag="fail"):
    """Device to coordinator: this task cannot be done here.

    With `lasting` no other task can, either, until something changes on the device.
    """

    task_id: TaskId
    why: Why
    lasting: bool | UnsetType = UNSET


class Offer(Struct, frozen=True, tag="offer"):
    """Device to coordinator: the update is packed; ask for it.

    `consent` says what its data's people have agreed to, where the device is told: its
    signature on the offer is on that, too. `follows` says that all chunks come behind
    this message, as the order allows; absent where they wait for a NEED.
    """

    task_id: TaskId
    manifest: Manifest
    mask_digest: Digest
    codec: str
    examples: Count
    norm: Annotated[float, Meta(ge=0)]
    metrics: dict[str, float]
    consent: Consent | UnsetType = UNSET
    follows: bool | UnsetType = UNSET


class Need(Struct, frozen=True, tag="need"):
    """Either way: chunk ranges ``[start, stop)`` of a blob that are missing.

    `blob` is the hex SHA-256 of a downward blob, or the id of the task offered.
    At most `credit` chunks may be sent before the next NEED. Of an update that the
    order lets go `unasked`, only what was lost is asked for.
    """

    blob: Annotated[str, Meta(max_length=64)]
    ranges: Annotated[list[tuple[Count, Count]], Meta(max_length=256)]
    credit: Annotated[int, Meta(ge=1)]


class Data(Struct, frozen=True, tag="data"):
    """Device to coordinator: one chunk of the update offered for a task."""

    task_id: TaskId
    index: Count
    chunk: Annotated[bytes, Meta(max_length=1 << 18)]


Verdict: TypeAlias = Literal[
    "accepted", "late", "rejected", "corrupt", "equivocation", "unknown"
]


class Receipt(Struct, frozen=True, tag="receipt"):
    """Coordinator to device, after the update is durable: what became of it."""

    task_id: TaskId
    verdict: Verdict
    why: Why = ""


class Cancel(Struct, frozen=True, tag="cancel"):
    """Coordinator to device: stop work on this task; its result is not wanted."""

    task_id: TaskId
    why: Why
