"""Every message type. Decoding is validation: a value of these types is well-formed.

Rules of evolution: new fields come last and have a default; a released tag and field
keep their meaning; unknown fields are skipped, unknown tags are counted and dropped.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

from msgspec import UNSET, Meta, Struct, UnsetType

from edge_sdk.wire.evaluation import (
    DataDescribed,
    DataQuery,
    DataSummary,
    DescribeData,
    Evaluate,
    Evaluated,
)
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
from edge_sdk.wire.secure.messages import SecureMessage, SecureRound

__all__ = [
    "Announce",
    "Cancel",
    "Certificate",
    "Data",
    "DataDescribed",
    "DataQuery",
    "DataSummary",
    "DescribeData",
    "Evaluate",
    "Evaluated",
    "Fail",
    "Hello",
    "Install",
    "Manifest",
    "MaskRecipe",
    "Message",
    "Need",
    "NextKey",
    "Offer",
    "Receipt",
    "Renew",
    "Request",
    "Revoked",
    "Running",
    "Status",
    "TaskAck",
    "TaskOrder",
    "Training",
    "Verdict",
    "Wait",
]


class Training(Struct, frozen=True):
    """Local training: SGD on the task's loss.

    `max_steps` bounds one task's steps (0: whole epochs); `seed` orders the examples.
    `power` has the kept values trained as a power of what SGD moves (absent: 1);
    `clip` bounds the norm of a step's gradient (absent: no bound).
    """

    epochs: Annotated[int, Meta(ge=1)]
    batch_size: Annotated[int, Meta(ge=1)]
    learning_rate: Annotated[float, Meta(gt=0)]
    momentum: Annotated[float, Meta(ge=0, lt=1)] = 0.0
    weight_decay: Annotated[float, Meta(ge=0)] = 0.0
    max_steps: Count = 0
    seed: Count = 0
    power: Annotated[float, Meta(gt=1, le=4)] | UnsetType = UNSET
    clip: Annotated[float, Meta(gt=0)] | UnsetType = UNSET


class Announce(Struct, frozen=True, tag="announce"):
    """Coordinator to all, retained: what runs here."""

    state: Literal["waiting", "running", "done", "stopped"]
    task: str
    round_no: Count
    rounds: Count
    codecs: list[str]


class Hello(Struct, frozen=True, tag="hello"):
    """Device to coordinator after every connect: who it is and what it holds.

    `free_disk_mib` is 0: nobody reads it, and a coordinator of 0.1.0 asks for it.
    `evaluates` is true of a device that answers EVALUATE; absent of one of 0.1.0.
    """

    phase: str
    task_id: TaskId | None
    version: str
    task: str
    examples: Count
    profile: dict[str, Any]
    codecs: list[str]
    engines: list[str]
    free_disk_mib: Count
    evaluates: bool | UnsetType = UNSET


class Wait(Struct, frozen=True, tag="wait"):
    """Coordinator to device: nothing to do for now; come back after so long.

    Device to coordinator: its owner's limits hold it back for so long; 0 ends that.
    """

    ms: Count
    why: Why


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
    that only sums of updates can be read.
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


class TaskAck(Struct, frozen=True, tag="task-ack"):
    """Device to coordinator: the task is journalled."""

    task_id: TaskId


class Fail(Struct, frozen=True, tag="fail"):
    """Device to coordinator: this task cannot be done here.

    With `lasting` no other task can, either, until something changes on the device.
    """

    task_id: TaskId
    why: Why
    lasting: bool | UnsetType = UNSET


class Offer(Struct, frozen=True, tag="offer"):
    """Device to coordinator: the update is packed; ask for it."""

    task_id: TaskId
    manifest: Manifest
    mask_digest: Digest
    codec: str
    examples: Count
    norm: Annotated[float, Meta(ge=0)]
    metrics: dict[str, float]


class Need(Struct, frozen=True, tag="need"):
    """Either way: chunk ranges ``[start, stop)`` of a blob that are missing.

    `blob` is the hex SHA-256 of a downward blob, or the id of the task offered.
    At most `credit` chunks may be sent before the next NEED.
    """

    blob: Annotated[str, Meta(max_length=64)]
    ranges: Annotated[list[tuple[Count, Count]], Meta(max_length=256)]
    credit: Annotated[int, Meta(ge=1)]


class Data(Struct, frozen=True, tag="data"):
    """Device to coordinator: one chunk of the update offered for a task."""

    task_id: TaskId
    index: Count
    chunk: Annotated[bytes, Meta(max_length=1 << 16)]


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


class Status(Struct, frozen=True, tag="status"):
    """Device to all, retained, and its will: for displays.

    Two decisions look at it: a will or goodbye ends a device's presence, and `progress`
    may extend a deadline, within a bound. `link` numbers the device's connections since
    it started, so that a will can be told from one of a connection that was replaced.
    `sent` and `received` are bytes on the wire since the device was installed,
    `celsius` its hottest sensor, `progress` the steps of the task done, in permille.
    """

    online: bool
    phase: str
    round_no: Count = 0
    engine: str = ""
    detail: str = ""
    sent: Count = 0
    received: Count = 0
    rss_mib: Count = 0
    # Absent, not null, where there is nothing to say: older bytes stay as they were.
    celsius: Annotated[float, Meta(ge=-60, le=200)] | UnsetType = UNSET
    progress: Annotated[int, Meta(ge=0, le=1000)] | UnsetType = UNSET
    link: Annotated[int, Meta(ge=0, lt=1 << 31)] | UnsetType = UNSET


class Revoked(Struct, frozen=True, tag="revoked"):
    """Coordinator to device: messages signed with this key are no longer accepted."""

    key: Digest
    why: Why


class Renew(Struct, frozen=True, tag="renew"):
    """Coordinator to device: make new keys and ask for a new certificate."""

    why: Why


class Request(Struct, frozen=True, tag="request"):
    """Device to coordinator: a certificate signing request (DER) for its next keys."""

    csr: Annotated[bytes, Meta(min_length=1, max_length=4096)]


class Certificate(Struct, frozen=True, tag="certificate"):
    """Coordinator to device: the certificate (DER) that its request asked for."""

    certificate: Annotated[bytes, Meta(min_length=1, max_length=8192)]


class NextKey(Struct, frozen=True, tag="next-key"):
    """Coordinator to all, retained: the Ed25519 key that signs from now on.

    Signed with the key that it replaces, so a device that slept follows the numbers
    from the key it has to the newest.
    """

    number: Annotated[int, Meta(ge=1)]
    key: Digest


class Install(Struct, frozen=True, tag="install", omit_defaults=True):
    """Coordinator to device: make this bundle the live model of the board.

    `no` numbers deliveries, `blob` is the packed bundle, `digest` the SHA-256 of its
    manifest, `key` the Ed25519 key that must have signed it; without one none need.
    """

    no: Count
    blob: Manifest
    digest: Digest
    key: Digest | None = None


class Running(Struct, frozen=True, tag="running", omit_defaults=True):
    """Device to coordinator: which bundle is live, and what became of a delivery.

    `live` is the SHA-256 of the manifest of the bundle that runs, `label` its task and
    round in words. `no` and `verdict` are of the latest delivery that has ended here.
    """

    live: Digest | None
    label: Annotated[str, Meta(max_length=200)]
    no: Count = 0
    verdict: Literal["", "live", "failed", "refused"] = ""
    why: Why = ""


Message: TypeAlias = (
    Announce
    | Hello
    | Wait
    | TaskOrder
    | TaskAck
    | Fail
    | Offer
    | Need
    | Data
    | Receipt
    | Cancel
    | Status
    | Revoked
    | Renew
    | Request
    | Certificate
    | NextKey
    | Install
    | Running
    | Evaluate
    | Evaluated
    | DescribeData
    | DataDescribed
    | SecureMessage
)
