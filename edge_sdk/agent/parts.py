"""The parts of an agent: the device's identity, its keys, its trainer, its link."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

from edge_sdk.identity.signatures import Seal
from edge_sdk.training.update import PackedUpdate
from edge_sdk.transport.base import Deliver, OnLink, Transport, Will
from edge_sdk.wire.messages import (
    DataDescribed,
    DescribeData,
    Evaluate,
    Evaluated,
    TaskOrder,
)

__all__ = ["Connect", "DeviceKeys", "Identity", "Runner"]

Connect: TypeAlias = Callable[[Deliver, OnLink, Will], Transport]


class Runner(Protocol):
    """The trainer as the agent calls it; see `edge_sdk.training.runner.TaskRunner`."""

    @property
    def engine(self) -> str:
        """Engine of the last task."""
        ...

    @property
    def engines(self) -> tuple[str, ...]:
        """Engines that can run here."""
        ...

    def run(
        self,
        order: TaskOrder,
        base: bytes,
        stop: Callable[[], bool],
        structure: bytes = b"",
        memory: bytes = b"",
        program: bytes = b"",
        parts: bytes = b"",
    ) -> PackedUpdate:
        """Carries out an order.

        `structure` is there when its mask names one, `memory` when its rule goes on
        from one, `program` and `parts` when the order names them; each is passed by
        its name.
        """
        ...

    def evaluate(
        self, order: Evaluate, base: bytes, stop: Callable[[], bool], **blobs: bytes
    ) -> Evaluated:
        """Measures a model on the device's test examples; never while it trains."""
        ...

    def describe(self, order: DescribeData, stop: Callable[[], bool]) -> DataDescribed:
        """Makes statistics of the device's examples; never while it trains."""
        ...


class DeviceKeys(Protocol):
    """A device's keys; `edge_sdk.identity.folder.DeviceFolder` is one.

    Each method that changes something is durable before it returns.
    """

    @property
    def seal(self) -> Seal:
        """Signs as this device, believes the pinned coordinator."""
        ...

    @property
    def public_key(self) -> bytes:
        """The raw key that this device signs with."""
        ...

    @property
    def number(self) -> int:
        """Number of the coordinator's signing key that is pinned here."""
        ...

    def adopt(self, number: int, key: bytes) -> bool:
        """Pins the coordinator's next key; whether it is newer than the present one."""
        ...

    def request(self) -> bytes:
        """A signing request for the next keys, made if there are none yet."""
        ...

    def install(self, certificate: bytes) -> bool:
        """Takes the next keys into use with their certificate; whether it fitted."""
        ...


@dataclass(frozen=True)
class Identity:
    """A device's description of itself, as sent in its HELLO.

    Attributes:
        name: The device's name.
        federation: The federation's name.
        task: The task's reference.
        examples: How many private examples it has.
        profile: Its device profile, as plain values.
        note: What the operator should know of it; told where it does not pause.
        count: How many examples it has now, where they come and go.
        consent: What its data's people have agreed to; None if it is not told.
        failing: Why its data cannot be read anew, now; empty where they can.
    """

    name: str
    federation: str
    task: str
    examples: int
    profile: dict[str, Any]
    note: str = ""
    count: Callable[[], int] | None = None
    consent: str | None = None
    failing: Callable[[], str] = str

    @property
    def examples_now(self) -> int:
        """Examples that it has at this moment."""
        return self.examples if self.count is None else self.count()
