"""Messages that the coordinator sends: to devices, announcements, retained blobs."""

from __future__ import annotations

import logging
import os
import time
from collections import Counter
from collections.abc import Callable

import msgspec
from msgspec import UNSET

from edge_sdk.errors import LocalProtocolError, RunError
from edge_sdk.transport.base import Transport
from edge_sdk.wire import topics
from edge_sdk.wire.blob import (
    AROUND,
    blob_id,
    chunk_of,
    chunk_size_for,
    manifest_of,
    positions,
)
from edge_sdk.wire.codec import Header, Sign, encode, tag_of
from edge_sdk.wire.messages import Announce, Manifest, Message, Need, TaskOrder

__all__ = ["KEPT", "Publisher"]

log = logging.getLogger(__name__)

STALE_S = 60  # a message that is older has been asked for again
VALID_S = 600  # so long a signed message holds at least; brokers of MQTT 3 keep it on
LEFT_S = 24 * 3600  # chunks that nobody wipes any more leave the broker by themselves
DIGEST_BYTES = 34  # of one chunk in a manifest, as msgpack has it
KEPT = 1 << 62  # the "round" of a blob that stays until somebody takes it away
AROUND_ORDER = 8 * 1024  # bytes of an order beside its base's chunk list
REPEAT_S = 2.0  # between announcements where the broker retains none
ECHO_S = 30.0  # until our own announcement should have come back


class Publisher:
    """Sends for one epoch of one coordinator.

    Args:
        transport: The way to the broker.
        federation: The federation's name.
        epoch: This coordinator's epoch.
        sign: Signs what is sent; None in a federation of one machine without keys.
        clock: Monotonic seconds.
        key: Number of the key that signs right now.

    Attributes:
        life: (epoch, boot nonce): of two coordinators the greater one is the newer.
        orders: Device to the orders that it was sent.
    """

    def __init__(
        self,
        transport: Transport,
        federation: str,
        epoch: int,
        sign: Sign | None = None,
        clock: Callable[[], float] = time.monotonic,
        key: Callable[[], int] = lambda: 0,
    ) -> None:
        self._sign, self._clock, self._key = sign, clock, key
        self._heard: dict[str, tuple[int, int, float]] = {}  # boot, seq, when
        self._transport, self._federation, self._epoch = transport, federation, epoch
        self._boot = int.from_bytes(os.urandom(6), "big")
        self._seq = 0
        self.life, self.orders = (epoch, self._boot), Counter[str]()
        self._announce: Announce | None = None
        self._links = 0  # connections so far, those that were heard of
        self._announced_at = clock()
        self.unheard_since: float | None = None  # of an announcement after a connect
        self._kept: dict[str, bytes] = {}  # topic -> packet
        self._published: dict[
            str, tuple[int, bytes, Manifest]
        ] = {}  # blob -> round, content
        self._retained: set[str] = set()  # blobs that the broker keeps; others are sent

    def heard(self, device: str, boot: int, seq: int) -> None:
        """A device's signed word has come: what is said to it now is an answer.

        So it can tell what is said in this life of it from what was recorded in an
        earlier one, and how old it is at most, without a date of its own.
        """
        known = self._heard.get(device, (0, 0, 0.0))
        if (boot, seq) != known[:2] and (boot != known[0] or seq > known[1]):
            self._heard[device] = boot, seq, self._clock()

    def tell(
        self, device: str, message: Message, *, round_no: int = 0, packed: bytes = b""
    ) -> None:
        """Sends a message to one device.

        Args:
            device: Its name.
            message: What it is told.
            round_no: Of the round that the message is about.
            packed: The message as `pack` makes it, where that was done before.
        """
        topic = topics.inbox(self._federation, device)
        stale_s = STALE_S
        if isinstance(message, TaskOrder):
            stale_s = max(STALE_S, message.ttl_ms // 1000)
            self.orders[device] += 1
        packet = self._pack(message, device, round_no, max(VALID_S, stale_s), packed)
        self._transport.publish(topic, packet, expires_s=stale_s)

    def announce(self, announcement: Announce) -> None:
        """Publish the retained ANNOUNCE of this coordinator."""
        self._announce, self._announced_at = announcement, self._clock()
        topic = topics.announcement(self._federation)
        linked = msgspec.structs.replace(announcement, link=max(self._links, 1))
        packet = self._pack(linked, "all", announcement.round_no)
        self._transport.publish(topic, packet, retain=True)

    def announce_again(self) -> None:
        """Repeats the last announcement: somebody else's lies in its place."""
        if self._announce is not None:
            self.announce(self._announce)

    def echoed(self) -> None:
        """An announcement came: the broker lets it be written, and be read."""
        self.unheard_since = None

    def tick(self) -> None:
        """Names the topic of an announcement that never came back."""
        since = self.unheard_since
        if since is not None and self._clock() - since >= ECHO_S:
            self.unheard_since = None
            log.error(
                "what is published to %s does not come back after %.0f s: the broker's "
                "access list drops it without a word. Let the coordinator write and "
                "read all topics below fl/1/%s (flash-coordinator policy prints the "
                "rules)",
                *(topics.announcement(self._federation), ECHO_S, self._federation),
            )

    @property
    def packet(self) -> int:
        """Bytes of a packet that the broker takes; `NO_LIMIT` if it does not say."""
        return self._transport.limits().packet

    def greeted(self) -> None:
        """Say again to a device that came what the broker should retain, and cannot."""
        if self._transport.limits().retained:
            return
        for topic, packet in self._kept.items():
            self._transport.publish(topic, packet)
        if self._clock() - self._announced_at >= REPEAT_S:
            self.announce_again()

    def keep(self, topic: str, packet: bytes) -> None:
        """Publishes a packet made elsewhere, retained, and again after each connect."""
        self._kept[topic] = packet
        self._transport.publish(topic, packet, retain=True)

    def shelve(self, content: bytes, round_no: int) -> Manifest:
        """Makes a blob ready to be fetched, once; the round keeps it there.

        It is published in retained chunks, or sent to devices that ask where the broker
        does not retain as much.

        Raises:
            RunError: If the broker's limit for packets does not let it through.
        """
        limits = self._transport.limits()
        limit = limits.retained_packet or limits.packet
        try:
            manifest = manifest_of(content, chunk_size_for(limit))
        except LocalProtocolError as error:
            raise RunError(str(error), remedy=error.help) from error
        if DIGEST_BYTES * len(manifest.chunks) + AROUND_ORDER > limits.packet:
            raise RunError(
                f"the broker takes packets of {limits.packet} bytes; the list of "
                f"chunks of a model of {manifest.size} bytes does not fit one",
                remedy="Raise the broker's limit for packets, to 128 KiB if you can.",
            )
        name = blob_id(manifest)
        known = self._published.get(name)
        self._published[name] = round_no, content, manifest
        if known is None or known[2] != manifest:
            self._retain(name)
        return manifest

    def _retain(self, name: str) -> None:
        """Publishes a blob's chunks, if the broker retains so many.

        Half of its room is left for what devices retain.
        """
        limits = self._transport.limits()
        chunks = len(self._published[name][2].chunks)
        held = sum(len(self._published[n][2].chunks) for n in self._retained - {name})
        if limits.retained and held + chunks <= limits.retained_messages // 2:
            self._retained.add(name)
            self._publish(name, range(chunks))
        else:
            self._retained.discard(name)

    def send_again(self, need: Need) -> None:
        """Publishes chunks of a blob that a device misses."""
        if need.blob in self._published:
            manifest = self._published[need.blob][2]
            wanted = list(positions(need.ranges, len(manifest.chunks)))
            self._publish(need.blob, wanted[: need.credit])

    def wipe(self, before_round: int) -> None:
        """Clears the retained chunks of rounds before this one."""
        for name, (round_no, _, _) in list(self._published.items()):
            if round_no < before_round:
                self.unshelve(name)

    def unshelve(self, name: str) -> None:
        """Clears the retained chunks of one blob."""
        _, _, manifest = self._published.pop(name)
        if name not in self._retained:
            return
        self._retained.discard(name)
        for index in range(len(manifest.chunks)):
            topic = topics.chunk(self._federation, name, index)
            self._transport.publish(topic, b"", retain=True)

    def after_connect(self) -> None:
        """Publish all retained messages again: the broker may have lost them.

        By the announcement devices know that what they sent meanwhile may be lost.
        """
        self._links += 1
        for topic, packet in self._kept.items():
            self._transport.publish(topic, packet, retain=True)
        self.announce_again()
        self.unheard_since = None if self._announce is None else self._clock()
        limits = self._transport.limits()
        for name, (_, _, manifest) in self._published.items():
            self._retain(name)
            if manifest.chunk_size + AROUND > limits.packet:
                log.error(
                    "the broker now takes packets of %d bytes; model %s went out in "
                    "larger chunks and cannot be fetched: its round will be aborted, "
                    "the next one fits",
                    limits.packet,
                    name[:12],
                )

    def _publish(self, name: str, indices: range | list[int]) -> None:
        _, content, manifest = self._published[name]
        for index in indices:
            topic = topics.chunk(self._federation, name, index)
            chunk = chunk_of(content, manifest, index)
            keep = name in self._retained
            self._transport.publish(topic, chunk, retain=keep, expires_s=LEFT_S)

    def _pack(
        self,
        message: Message,
        destination: str,
        round_no: int,
        valid_s: int = 0,
        packed: bytes = b"",
    ) -> bytes:
        self._seq += 1
        boot, seq, at = self._heard.get(destination, (0, 0, 0.0))
        answer = self._sign is not None and boot != 0
        header = Header(
            type=tag_of(message),
            federation=self._federation,
            source="coordinator",
            destination=destination,
            epoch=self._epoch,
            seq=self._seq,
            boot=self._boot,
            round_no=round_no,
            echo=(boot, seq) if answer else UNSET,
            valid_s=valid_s + round(self._clock() - at) if answer else UNSET,
            key=self._key() or UNSET,
        )
        return encode(header, message, sign=self._sign, packed=packed)
