"""Announcements of a run's coordinators and of the keys that they sign with."""

from __future__ import annotations

from typing import Literal, TypeAlias

from coordinator.identity.registry import IdentityRegistry
from coordinator.protocol.publisher import Publisher
from coordinator.settings import RunSettings
from edge_sdk.errors import RemoteProtocolError, StateError
from edge_sdk.identity.signatures import verifier
from edge_sdk.wire import topics
from edge_sdk.wire.codec import decode
from edge_sdk.wire.messages import Announce
from edge_sdk.wire.values import CODECS

__all__ = ["CoordinatorAnnouncements", "RunState", "announcement"]

RunState: TypeAlias = Literal["waiting", "running", "done", "stopped"]


def announcement(settings: RunSettings, state: RunState, round_no: int) -> Announce:
    """The announcement of a run in a round, to all devices."""
    return Announce(state, settings.task, round_no, settings.rounds, list(CODECS))


class CoordinatorAnnouncements:
    """Tells this coordinator's announcements from those of another one of the run.

    Args:
        federation: The federation's name.
        identities: Its identities; None for one machine without any.
        publisher: Sends.

    Attributes:
        taken_over: A newer coordinator of this run has announced itself.
    """

    def __init__(
        self, federation: str, identities: IdentityRegistry | None, publisher: Publisher
    ) -> None:
        self._federation, self._identities = federation, identities
        self._publisher = publisher
        self._key: bytes | None = None  # that the latest announcement was signed with
        self._verify = (
            None
            if identities is None
            # Replaced keys, too: their words stay on the broker until the next.
            else verifier(
                lambda who: identities.own_keys if who == "coordinator" else (),
                held=self._note_key,
            )
        )
        self.taken_over = False

    def read(self, payload: bytes) -> None:
        """Take an announcement: this coordinator's, or another's.

        The newer one goes on. A copied folder has a ledger and a lock of its own, so
        neither shows that two run; what they announce does.

        Raises:
            RemoteProtocolError: If it is none, or no key of this run signed it.
            StateError: If a newer coordinator of this run has announced itself.
        """
        self._key = None
        self._publisher.echoed()
        header = decode(payload, verify=self._verify).header
        self._compare(header.epoch, header.boot)

    def _compare(self, epoch: int, boot: int) -> None:
        """Compare the life of whoever announced itself with this coordinator's."""
        theirs, ours = (epoch, boot), self._publisher.life
        if theirs < ours:  # kept by the broker in the place of ours
            self._publisher.announce_again()
        if theirs <= ours:
            return
        newest = None if self._identities is None else self._identities.signing[1]
        if self._key != newest:
            raise RemoteProtocolError(
                "a coordinator signs its announcement with a key that was replaced"
            )
        self.taken_over = True
        raise StateError(
            f"another coordinator has taken over {self._federation}: it announces "
            f"epoch {epoch}, this one has {ours[0]}",
            remedy="Stop one of the two: devices follow only the newer one. If no "
            "other runs, this folder is an older copy: resume the newer one.",
        )

    def publish_keys(self) -> None:
        """Publish the retained announcement of the keys that replaced the first."""
        if self._identities is not None:
            for number, notice in self._identities.notices:
                self._publisher.keep(topics.next_key(self._federation, number), notice)

    def rotated(self) -> None:
        """Sign with the newest key; its announcement, under the last, comes first.

        So whoever hears it in order never meets a signature that it cannot check.
        """
        self.publish_keys()
        if self._identities is not None:
            self._identities.take_up()
        self._publisher.announce_again()

    def _note_key(self, _who: str, key: bytes) -> None:
        self._key = key
