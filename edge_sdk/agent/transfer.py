"""A task's blobs: its base on the way down, its update on the way up."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator

import msgspec

from edge_sdk.errors import EdgeError, LocalProtocolError, StateError, two_sentences
from edge_sdk.session import Fetched, Ship
from edge_sdk.storage.fetcher import Fetcher
from edge_sdk.storage.journal import Journal
from edge_sdk.wire import topics
from edge_sdk.wire.blob import (
    blob_id,
    chunk_of,
    chunk_size_for,
    manifest_of,
    positions,
)
from edge_sdk.wire.messages import Data, Manifest, Message, Offer

__all__ = ["BaseDownload", "chunks_asked_for", "in_chunks"]

log = logging.getLogger(__name__)


class BaseDownload:
    """Download of the blobs that a task starts from; a step tells if all are here.

    A step returns `Fetched` once, when they are whole; the error if they cannot be had,
    as asked for again it would break again; and None while chunks are on their way.

    Args:
        fetcher: Gets the chunks.
        journal: Keeps those that are here.
        say: Sends a message to the coordinator.
    """

    def __init__(
        self, fetcher: Fetcher, journal: Journal, say: Callable[[Message], None]
    ) -> None:
        self._fetcher, self._journal, self._say = fetcher, journal, say
        self.blobs: list[bytes] = []  # of the latest that were whole; the base is first

    def fetch(self, blobs: tuple[Manifest, ...]) -> Fetched | EdgeError | None:
        """Start a download, or request its missing chunks."""
        if self._fetcher.wanted == blobs:
            for need in self._fetcher.needs():
                self._say(need)
        else:
            try:
                here = self._journal.blobs
                self._fetcher.begin(blobs, lambda blob: here.open(blob, blobs))
            except EdgeError as error:
                return error
        return self._go_on()

    def take(
        self, topic: topics.ChunkTopic, name: str, chunk: bytes
    ) -> Fetched | EdgeError | None:
        """A chunk arrived, of these blobs or of others.

        Raises:
            RemoteProtocolError: If it is not what the manifest names.
        """
        try:
            self._fetcher.take(topic, name, chunk)
        except StateError as error:
            return error
        return self._go_on()

    def drop(self) -> None:
        """Cancel the download."""
        self._fetcher.drop()

    def _go_on(self) -> Fetched | EdgeError | None:
        for need in self._fetcher.ask():
            self._say(need)
        if not self._fetcher.whole:
            return None
        base = blob_id(self._fetcher.wanted[0])
        try:
            self.blobs = self._fetcher.contents()
        except EdgeError as error:
            return error
        return Fetched(base)


def in_chunks(offer: Offer, limit: int, payload: Callable[[], bytes]) -> Offer:
    """The offer in chunks that the broker takes; the same offer where it fits.

    Args:
        offer: What is offered.
        limit: Bytes that one packet may take.
        payload: The packed update, looked up where it has to be cut again.
    """
    try:
        size = chunk_size_for(limit, offer.manifest.chunk_size)
        if offer.manifest.chunk_size == size:
            return offer
        manifest = manifest_of(payload(), size)
    except LocalProtocolError as error:  # not through this broker
        log.error("an update cannot be sent: %s", two_sentences(error, error.help))  # noqa: TRY400
        return offer
    return msgspec.structs.replace(offer, manifest=manifest)


def chunks_asked_for(ship: Ship, offer: Offer, payload: bytes) -> Iterator[Data]:
    """The chunks of an update that fit into the credit, in the order asked for."""
    wanted = list(positions(ship.ranges, len(offer.manifest.chunks)))[: ship.credit]
    for index in wanted:
        yield Data(ship.task_id, index, chunk_of(payload, offer.manifest, index))
