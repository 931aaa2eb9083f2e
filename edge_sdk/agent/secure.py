"""`SecureAggregator`: a device's part of secure rounds, beside the session.

It only answers. Whatever the coordinator says again is answered as it was before, from
what lies on the disk; the coordinator asks until it has the answer.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import msgspec

from edge_sdk.agent.parts import DeviceKeys, Identity
from edge_sdk.checkpoint import replace_file
from edge_sdk.errors import (
    EdgeError,
    RemoteProtocolError,
    StateError,
    two_sentences,
)
from edge_sdk.identity.signatures import is_signed
from edge_sdk.secure import device_round as steps
from edge_sdk.secure.device_round import DeviceRound
from edge_sdk.secure.keys import Agree, agreeing
from edge_sdk.session import Broke, Session
from edge_sdk.training.update import PackedUpdate
from edge_sdk.wire.blob import manifest_of
from edge_sdk.wire.codec import pack, unpack
from edge_sdk.wire.messages import Message, TaskOrder
from edge_sdk.wire.secure.fixed_point import pack_ring, unpack_ring
from edge_sdk.wire.secure.messages import (
    SecureDelivery,
    SecurePeers,
    SecureReady,
    SecureReveal,
    SecureShares,
    SecureUnmask,
)

__all__ = ["SecureAggregator"]

log = logging.getLogger(__name__)


class SecureAggregator:
    """Secure rounds of one device; its methods are called by the agent's one loop.

    Args:
        me: Who the device is.
        device_keys: Its keys; None in a federation without any.
        path: File of the latest round's secrets, in the device's private folder.
        say: Sends a message to the coordinator.
        finish: Takes an update that is masked.
        broke: Told that a task cannot be done.
    """

    def __init__(
        self,
        me: Identity,
        device_keys: DeviceKeys | None,
        path: Path,
        say: Callable[[Message], None],
        finish: Callable[[PackedUpdate], None],
        broke: Callable[[Broke], None],
    ) -> None:
        self._me, self._device_keys, self._path = me, device_keys, path
        self._say, self._finish, self._broke = say, finish, broke
        self._state: DeviceRound | None = None
        self._agree: Agree | None = None  # of the state's share key
        self._waiting: PackedUpdate | None = None  # trained before it can be masked

    def take(self, message: Message, session: Session) -> None:
        """Answers what the coordinator says of a secure round.

        Args:
            message: Whatever it is; most are none.
            session: After it was heard.
        """
        match message:
            case TaskOrder():
                self._begin(message, session)
            case SecurePeers() | SecureDelivery():
                state = self._of(message.task_id)
                if state is None or state.task_id != _task_of(session):
                    return
                try:
                    self._go_on(state, message)
                except RemoteProtocolError as error:
                    self._broke(Broke(state.task_id, str(error)))
            case SecureUnmask():
                self._reveal(message)
            case _:
                pass

    def masked(self, order: TaskOrder, update: PackedUpdate) -> PackedUpdate | None:
        """An update as it is sent; None while its masks are not agreed yet.

        It is handed to `finish` again once they are. One that cannot be masked ends
        the task.

        Raises:
            StateError: If the disk refuses.
        """
        if order.secure is None:
            return update
        state = self._of(order.id)
        if state is None or not state.levels:
            self._waiting = update
            return None
        self._waiting = None
        digest, how = update.offer.mask_digest, state.how
        try:
            vector = unpack_ring(update.payload, digest, how.bits, how.sizes[-1])
            after, hidden = steps.mask(state, vector)
        except EdgeError as error:
            log.warning("the update of task %s cannot be masked: %s", order.id, error)
            self._broke(Broke(order.id, two_sentences(error, error.help)))
            return None
        self._keep(after)
        payload = pack_ring(hidden, digest)
        manifest = manifest_of(payload, order.chunk_size)
        offer = msgspec.structs.replace(update.offer, manifest=manifest)
        return replace(update, offer=offer, payload=payload)

    def _begin(self, order: TaskOrder, session: Session) -> None:
        """New secrets for a new task; the same keys again for one that is known."""
        if order.secure is None or order.id != _task_of(session):
            return
        state = self._of(order.id)
        if state is None:
            me, how = self._me, order.secure
            given = order.id, me.federation, me.name, how
            known = self._state.known if self._state is not None else {}
            state = steps.begin(*given, os.urandom, known)
            self._keep(state)
            self._agree, self._waiting = agreeing(state.share_private), None
        keys = self._device_keys
        self._say(steps.keys_of(state, keys.seal.sign if keys else None))

    def _go_on(self, state: DeviceRound, message: SecurePeers | SecureDelivery) -> None:
        if isinstance(message, SecurePeers):
            verify = None if self._device_keys is None else is_signed
            state = steps.shares(state, message, verify, self._agree)
            self._keep(state)
            self._say(SecureShares(state.task_id, state.sent))
            return
        after = steps.with_shares(state, message, self._agree)
        if after != state:
            for name in steps.unread(after):
                log.warning("the shares of %s cannot be read: altered, or false", name)
        self._keep(after)
        self._say(SecureReady(state.task_id))
        if self._waiting is not None:
            self._finish(self._waiting)

    def _reveal(self, told: SecureUnmask) -> None:
        state, why = self._of(told.task_id), "this device has no secrets of that task"
        if state is not None:
            try:
                after, said = steps.reveal(state, told)
            except RemoteProtocolError as error:
                why = str(error)
            else:
                self._keep(after)
                self._say(said)
                return
        log.warning("nothing is revealed for task %s: %s", told.task_id, why)
        self._say(SecureReveal(told.task_id, why=why[:500]))

    def _of(self, task_id: str) -> DeviceRound | None:
        """The state of a task; None if the latest round is another's."""
        if self._state is None:
            try:
                self._state = unpack(self._path.read_bytes(), DeviceRound)
            except FileNotFoundError:
                return None
            except (OSError, RemoteProtocolError) as error:
                # Its secrets are lost, and with them its part of that round alone.
                log.warning("%s cannot be read: %s", self._path, error)
                return None
        state = self._state
        return state if state.task_id == task_id else None

    def _keep(self, state: DeviceRound) -> None:
        """Makes a state durable, before anything of it is said.

        Raises:
            StateError: If the disk refuses.
        """
        if state == self._state:
            return
        try:
            replace_file(self._path, pack(state), mode=0o600)
        except EdgeError as error:
            raise StateError(str(error), remedy=error.help) from error
        self._state = state


def _task_of(session: Session) -> str:
    return session.order.id if session.order is not None else ""
