"""Silence behind a HELLO, or in a transfer, and which topics that may be due to.

A broker whose access list forbids a topic often takes the message, acknowledges it and
drops it; a coordinator that runs answers every HELLO, and every OFFER.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from edge_sdk.session import SessionPhase
from edge_sdk.wire import topics

__all__ = ["SILENT_S", "STUCK_S", "SilenceWatch", "TransferWatch"]

SILENT_S = 35.0  # two questions; looked at with the third, well within a minute
STUCK_S = 40.0  # a chunk takes half a minute on the slowest links
REPEATS = 3  # times that the same chunks are asked for before they count as lost


@dataclass(frozen=True)
class SilenceWatch:
    """State of one device's link, from which silence is told; a pure value.

    Attributes:
        device: The device's name.
        federation: Its federation.
        since: Monotonic seconds of the first HELLO without an answer; None if there is
            none.
        announced: Whether a coordinator's announcement came over this link.
        told: Whether it was said.
    """

    device: str
    federation: str
    since: float | None = None
    announced: bool = False
    told: bool = False

    def connected(self, now: float) -> SilenceWatch:
        """The state after a new link, on which the device says HELLO."""
        return SilenceWatch(self.device, self.federation, now)

    def heard(self, topic: str) -> SilenceWatch:
        """The state after a message on a topic; one to this device is an answer."""
        if topic == topics.announcement(self.federation):
            return replace(self, announced=True)
        if topic == topics.inbox(self.federation, self.device):
            return replace(self, since=None)
        return self

    def look(self, now: float) -> tuple[SilenceWatch, str]:
        """The state after a look, and a sentence if silence is to be told; else ""."""
        if self.told or self.since is None or now - self.since < SILENT_S:
            return self, ""
        writes = topics.upload(self.federation, self.device, 0, data=False)
        reads = topics.inbox(self.federation, self.device)
        seconds = now - self.since
        if self.announced:
            said = (
                f"a coordinator has announced itself, but for {seconds:.0f} s nothing "
                f"came on {reads} in answer to what this device sends to {writes}: it "
                "is down, or the broker's access list drops one of these topics "
                "without a word; let this device write the second and read the first"
            )
        else:
            ann = topics.announcement(self.federation)
            said = (
                f"for {seconds:.0f} s nothing came on {ann}, nor on {reads}: no "
                f"coordinator of {self.federation} is at this broker, or its access "
                "list lets this device not read these topics"
            )
        return replace(self, told=True), said


@dataclass(frozen=True)
class TransferWatch:
    """State of a device's transfers, from which a standstill is told; a pure value.

    Attributes:
        device: The device's name.
        federation: Its federation.
        mark: Phase and progress when it was looked at last.
        since: Monotonic seconds of the last change of these.
        told: Phases in which a standstill was said.
    """

    device: str
    federation: str
    mark: object = None
    since: float = 0.0
    told: tuple[SessionPhase, ...] = ()

    def connected(self) -> TransferWatch:
        """The state after a new link, on which a transfer goes on."""
        return replace(self, mark=None)

    def look(
        self, now: float, phase: SessionPhase, progress: object, repeats: int
    ) -> tuple[TransferWatch, str]:
        """The state after a look, and a sentence if a standstill is to be told; or "".

        Args:
            now: Monotonic seconds.
            phase: The session's.
            progress: Anything that changes with each chunk that arrives.
            repeats: How often the coordinator has asked for the same chunks.
        """
        if (phase, progress) != self.mark:
            return replace(self, mark=(phase, progress), since=now), ""
        if phase in self.told or now - self.since < STUCK_S:
            return self, ""
        after, seconds = replace(self, told=(*self.told, phase)), now - self.since
        if phase is SessionPhase.FETCH:
            return after, (
                f"for {seconds:.0f} s no part of a model came on "
                f"fl/1/{self.federation}/m/#: the coordinator is down, or the "
                "broker's access list drops it without a word; let this device read "
                "these topics"
            )
        if phase is SessionPhase.UPLOAD and repeats >= REPEATS:
            sends = topics.upload(self.federation, self.device, 0, data=True)
            return after, (
                f"for {seconds:.0f} s the coordinator asks for the same parts of an "
                f"update: what this device sends to {sends} is lost, perhaps because "
                "the broker's access list drops it without a word; let this device "
                "write this topic"
            )
        return self, ""
