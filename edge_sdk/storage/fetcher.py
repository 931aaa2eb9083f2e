"""Blobs on their way down to a device, a window of chunks at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from edge_sdk.transport.base import Transport
from edge_sdk.wire import topics
from edge_sdk.wire.blob import Assembly, blob_id, positions
from edge_sdk.wire.messages import Manifest, Need

__all__ = ["WINDOW", "Fetcher"]

WINDOW = 32  # chunks of 64 KiB on their way down at a time: 2 MiB
OTHERS = 4  # subscriptions of a device beside its chunks


class Fetcher:
    """Asks the broker for chunks by their exact topics until all blobs are whole.

    So what waits here is bounded, what arrived is not sent again after a cut, and not
    every broker has retained messages for a wildcard.

    Args:
        federation: The federation's name.
        transport: The way to the broker.
    """

    def __init__(self, federation: str, transport: Transport) -> None:
        self._federation, self._transport = federation, transport
        self._assemblies: list[Assembly] = []
        self._asked: set[str] = set()  # topics of chunks that are on their way

    @property
    def wanted(self) -> tuple[Manifest, ...]:
        """The blobs in hand."""
        return tuple(assembly.manifest for assembly in self._assemblies)

    @property
    def window(self) -> int:
        """Chunks on their way at a time: each takes one of the broker's subscriptions.

        A base and a delivered model may be fetched side by side.
        """
        room = (self._transport.limits().subscriptions - OTHERS) // 2
        return max(min(WINDOW, room), 1)

    @property
    def whole(self) -> bool:
        """True if blobs are in hand and every chunk of them is here."""
        return bool(self._assemblies) and all(a.complete for a in self._assemblies)

    def begin(
        self, blobs: Sequence[Manifest], open_blob: Callable[[Manifest], Assembly]
    ) -> None:
        """Drops what was in hand and takes these.

        Raises:
            EdgeError: As `open_blob`; nothing is in hand then.
        """
        self.drop()
        self._assemblies = [open_blob(manifest) for manifest in blobs]

    def ask(self) -> list[Need]:
        """Asks the broker for the next chunks, unless enough are on their way.

        Returns:
            Requests to send to the coordinator at once, as the broker retains nothing.
        """
        window = self.window
        wanted = [
            topics.chunk(self._federation, blob_id(assembly.manifest), index)
            for assembly in self._assemblies
            for index in positions(assembly.missing(window), 1 << 31)
        ][:window]
        fresh = [topic for topic in wanted if topic not in self._asked]
        if not fresh or len(wanted) > len(fresh) < max(window // 2, 1):
            return []
        self._asked.update(fresh)
        self._transport.subscribe(*fresh)
        return [] if self._transport.limits().retained else self.needs()

    def needs(self) -> list[Need]:
        """Requests to send if chunks do not come: lost, or the broker started empty."""
        return [
            Need(blob_id(assembly.manifest), missing, credit=self.window)
            for assembly in self._assemblies
            if (missing := assembly.missing())
        ]

    def take(self, topic: topics.ChunkTopic, name: str, chunk: bytes) -> None:
        """A chunk arrived on a topic; one of another blob changes nothing.

        Raises:
            RemoteProtocolError: If it is not what the manifest names.
            StateError: If it cannot be kept.
        """
        for assembly in self._assemblies:
            if blob_id(assembly.manifest) == topic.blob and chunk:
                assembly.add(topic.index, chunk)
                self._asked.discard(name)
                self._transport.unsubscribe(name)

    def contents(self) -> list[bytes]:
        """The whole blobs, which are in hand no more.

        Raises:
            RemoteProtocolError: If somebody changed a file under us.
        """
        found = [assembly.content() for assembly in self._assemblies]
        self.drop()
        return found

    def drop(self) -> None:
        """Cancel the fetch; its chunks stay on the disk."""
        if self._asked:
            self._transport.unsubscribe(*self._asked)
        self._asked, self._assemblies = set(), []
