"""What the coordinator sends: messages to devices, the announcement, retained blobs."""

from __future__ import annotations

import os

from edge_sdk.transport.base import Transport
from edge_sdk.wire import topics
from edge_sdk.wire.blob import blob_id, chunk_of, manifest_of, positions
from edge_sdk.wire.codec import Header, Sign, encode, tag_of
from edge_sdk.wire.messages import Announce, Manifest, Message, Need

__all__ = ["Post"]


class Post:
    """Sends for one epoch of one coordinator.

    Args:
        transport: The way to the broker.
        federation: The federation's name.
        epoch: This coordinator's epoch.
        sign: Signs what is sent; None in a federation of one machine without keys.
    """

    def __init__(
        self,
        transport: Transport,
        federation: str,
        epoch: int,
        sign: Sign | None = None,
    ) -> None:
        self._sign = sign
        self._transport, self._federation, self._epoch = transport, federation, epoch
        self._boot = int.from_bytes(os.urandom(6), "big")
        self._seq = 0
        self._announce: Announce | None = None
        self._kept: dict[str, bytes] = {}  # topic -> packet
        self._shelf: dict[
            str, tuple[int, bytes, Manifest]
        ] = {}  # blob -> round, content

    def tell(self, device: str, message: Message, *, round_no: int = 0) -> None:
        """Sends a message to one device."""
        topic = topics.inbox(self._federation, device)
        self._transport.publish(topic, self._pack(message, device, round_no))

    def announce(self, announcement: Announce) -> None:
        """Says, retained, what runs here."""
        self._announce = announcement
        topic = topics.announcement(self._federation)
        packet = self._pack(announcement, "all", announcement.round_no)
        self._transport.publish(topic, packet, retain=True)

    def keep(self, topic: str, packet: bytes) -> None:
        """Publishes a packet made elsewhere, retained, and again after each connect."""
        self._kept[topic] = packet
        self._transport.publish(topic, packet, retain=True)

    def shelve(self, content: bytes, round_no: int) -> Manifest:
        """Publishes a blob in retained chunks, once; the round keeps it there."""
        manifest = manifest_of(content)
        name = blob_id(manifest)
        if name not in self._shelf:
            self._shelf[name] = round_no, content, manifest
            self._publish(name, range(len(manifest.chunks)))
        else:
            self._shelf[name] = round_no, content, manifest
        return manifest

    def send_again(self, need: Need) -> None:
        """Publishes chunks of a blob that a device misses."""
        if need.blob in self._shelf:
            manifest = self._shelf[need.blob][2]
            wanted = list(positions(need.ranges, len(manifest.chunks)))
            self._publish(need.blob, wanted[: need.credit])

    def wipe(self, before_round: int) -> None:
        """Clears the retained chunks of rounds before this one."""
        for name, (round_no, _, manifest) in list(self._shelf.items()):
            if round_no < before_round:
                del self._shelf[name]
                for index in range(len(manifest.chunks)):
                    topic = topics.chunk(self._federation, name, index)
                    self._transport.publish(topic, b"", retain=True)

    def after_connect(self) -> None:
        """Says everything retained again: the broker may have lost it."""
        for topic, packet in self._kept.items():
            self._transport.publish(topic, packet, retain=True)
        if self._announce is not None:
            self.announce(self._announce)
        for name, (_, _, manifest) in self._shelf.items():
            self._publish(name, range(len(manifest.chunks)))

    def _publish(self, name: str, indices: range | list[int]) -> None:
        _, content, manifest = self._shelf[name]
        for index in indices:
            topic = topics.chunk(self._federation, name, index)
            self._transport.publish(
                topic, chunk_of(content, manifest, index), retain=True
            )

    def _pack(self, message: Message, destination: str, round_no: int) -> bytes:
        self._seq += 1
        header = Header(
            type=tag_of(message),
            federation=self._federation,
            source="coordinator",
            destination=destination,
            epoch=self._epoch,
            seq=self._seq,
            boot=self._boot,
            round_no=round_no,
        )
        return encode(header, message, sign=self._sign)
