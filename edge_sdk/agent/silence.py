"""Silence behind a HELLO: nothing comes back, and which topics that may be due to.

A broker whose access list forbids a topic often takes the message, acknowledges it and
drops it; a coordinator that runs answers every HELLO.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from edge_sdk.wire import topics

__all__ = ["SILENT_S", "SilenceWatch"]

SILENT_S = 35.0  # two questions; looked at with the third, well within a minute


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
