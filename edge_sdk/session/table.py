"""The table, (phase, event) -> rule, the rules, and the one `advance`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from msgspec import UNSET, structs

from edge_sdk.session.values import (
    Booted,
    Broke,
    Connected,
    Event,
    Fetch,
    Fetched,
    Greet,
    Halt,
    Heard,
    Keep,
    Nudge,
    Say,
    Session,
    SessionPhase,
    Ship,
    Step,
    Train,
    UpdatePacked,
)
from edge_sdk.wire.messages import (
    Announce,
    Cancel,
    Fail,
    Need,
    Receipt,
    TaskAck,
    TaskOrder,
    Wait,
)

__all__ = ["NEXT", "advance"]

REMEMBERED = 64  # ended tasks that are known when they are sent again


def advance(session: Session, event: Event) -> Step:
    """The next session and what to do, in order; unknown pairs change nothing."""
    subject: Any = event
    if isinstance(event, Heard):
        if event.epoch < session.epoch or session.phase is SessionPhase.BOOT:
            return session, ()
        newer = event.epoch > session.epoch
        session = replace(session, epoch=event.epoch)
        subject = event.message
        if newer:  # a coordinator that restarted has to be told where we are
            session, effects = _step(session, subject)
            return session, (Keep(), Greet(), *effects)
    return _step(session, subject)


def _step(session: Session, subject: Any) -> Step:
    rule = NEXT.get((session.phase, type(subject)))
    return rule(session, subject) if rule else (session, ())


# -- the rules -----------------------------------------------------------------------


def _boot(session: Session, event: Booted) -> Step:
    session = replace(
        session,
        epoch=event.epoch,
        order=event.order,
        offer=event.offer,
        finished=event.finished[-REMEMBERED:],
    )
    if event.offer is not None:
        return replace(session, phase=SessionPhase.UPLOAD), ()
    if event.order is not None:
        return replace(session, phase=SessionPhase.FETCH), (_fetch(event.order),)
    return replace(session, phase=SessionPhase.IDLE), ()


def _fetch(order: TaskOrder) -> Fetch:
    found = (order.base, order.mask.structure, order.program, order.parts)
    return Fetch(tuple(blob for blob in found if blob is not None))


def _take(session: Session, order: TaskOrder) -> Step:
    verdict = dict(session.finished).get(order.id)
    if verdict == "failed":  # our FAIL may have been lost
        return session, (Say(Fail(order.id, "this task has failed here before")),)
    if verdict is not None:
        return session, ()
    after = replace(session, phase=SessionPhase.FETCH, order=order, offer=None)
    return after, (Keep(), Say(TaskAck(order.id)), _fetch(order))


def _take_again(session: Session, order: TaskOrder) -> Step:
    if session.order is not None and session.order.id != order.id:
        if order.round_no < session.order.round_no:  # an echo: rounds only go up
            return session, ()
        after, effects = _take(session, order)
        if after is session:
            return session, effects
        # Its fate was not heard, so it is remembered as such: never trained again.
        end = (session.order.id, "displaced")
        after = replace(after, finished=(*after.finished, end)[-REMEMBERED:])
        return after, (Halt(session.order.id), Keep(end), *effects[1:])
    if session.offer is not None:
        return session, (Say(TaskAck(order.id)), Say(session.offer))
    return session, (Say(TaskAck(order.id)),)


def _fetched(session: Session, event: Fetched) -> Step:
    if session.order is None or session.order.base.sha256.hex() != event.blob:
        return session, ()
    return replace(session, phase=SessionPhase.TRAIN), (Train(session.order),)


def _packed(session: Session, event: UpdatePacked) -> Step:
    if session.order is None or session.order.id != event.offer.task_id:
        return session, ()
    after = replace(session, phase=SessionPhase.UPLOAD, offer=event.offer)
    manifest = event.offer.manifest
    if manifest.size > session.order.unasked:
        return after, (Keep(), Say(event.offer))
    count, first = len(manifest.chunks), structs.replace(event.offer, follows=True)
    chunks = Ship(event.offer.task_id, ((0, count),), count)
    return after, (Keep(), Say(first), chunks)  # said again, it waits for a NEED


def _repacked(session: Session, event: UpdatePacked) -> Step:
    """The same update in other chunks: another broker takes smaller packets."""
    offer = session.offer
    if (
        offer is None
        or offer.task_id != event.offer.task_id
        or offer.manifest.sha256 != event.offer.manifest.sha256
    ):
        return session, ()
    return replace(session, offer=event.offer), (Keep(), Say(event.offer))


def _broke(session: Session, event: Broke) -> Step:
    if session.order is None or session.order.id != event.task_id:
        return session, ()
    after, effects = _idle(session, "failed")
    lasting = True if event.lasting else UNSET
    return after, (*effects, Say(Fail(event.task_id, event.why[:500], lasting)))


def _ship(session: Session, need: Need) -> Step:
    if session.offer is None or session.offer.task_id != need.blob:
        return session, ()
    return session, (Ship(need.blob, tuple(need.ranges), need.credit),)


def _receipt(session: Session, receipt: Receipt) -> Step:
    if session.order is None or session.order.id != receipt.task_id:
        return session, ()
    if receipt.verdict == "corrupt":  # what arrived was damaged, not what is here
        return session, (Say(session.offer),) if session.offer is not None else ()
    return _idle(session, receipt.verdict)


def _cancel(session: Session, cancel: Cancel) -> Step:
    if session.order is None or session.order.id != cancel.task_id:
        return session, ()
    return _idle(session, "cancelled")


def _idle(session: Session, verdict: str) -> Step:
    done = session.order.id if session.order else ""
    after = replace(
        session,
        phase=SessionPhase.IDLE,
        order=None,
        offer=None,
        finished=(*session.finished, (done, verdict))[-REMEMBERED:],
    )
    return after, (Halt(done), Keep((done, verdict)))


def _greet(session: Session, _event: object) -> Step:
    return session, (Greet(),)


def _greet_and_fetch(session: Session, _event: object) -> Step:
    again = (_fetch(session.order),) if session.order else ()
    return session, (Greet(), *again)


def _greet_and_offer(session: Session, _event: object) -> Step:
    again = (Say(session.offer),) if session.offer else ()
    return session, (Greet(), *again)


def _stay(session: Session, _event: object) -> Step:
    return session, ()


_B, _I, _F, _T, _U = (
    SessionPhase.BOOT,
    SessionPhase.IDLE,
    SessionPhase.FETCH,
    SessionPhase.TRAIN,
    SessionPhase.UPLOAD,
)

NEXT: Mapping[tuple[SessionPhase, type], Callable[[Session, Any], Step]] = (
    MappingProxyType(
        {
            (_B, Booted): _boot,
            (_I, Connected): _greet,
            (_I, Nudge): _greet,
            (_I, TaskOrder): _take,
            (_F, Connected): _greet_and_fetch,
            (_F, Nudge): _greet_and_fetch,
            (_F, TaskOrder): _take_again,
            (_F, Fetched): _fetched,
            (_F, Broke): _broke,
            (_F, Receipt): _receipt,
            (_F, Cancel): _cancel,
            (_T, Connected): _greet,
            (_T, Nudge): _stay,  # busy; the coordinator's deadline decides
            (_T, TaskOrder): _take_again,
            (_T, UpdatePacked): _packed,
            (_T, Broke): _broke,
            (_T, Receipt): _receipt,
            (_T, Cancel): _cancel,
            (_U, Connected): _greet_and_offer,
            (_U, Nudge): _greet_and_offer,
            (_U, TaskOrder): _take_again,
            (_U, Need): _ship,
            (_U, UpdatePacked): _repacked,
            (_U, Receipt): _receipt,
            (_U, Cancel): _cancel,
            # Arrivals that were overtaken, and news that changes nothing here:
            (_I, Receipt): _stay,
            (_I, Cancel): _stay,
            (_I, Need): _stay,
            (_I, UpdatePacked): _stay,
            (_I, Fetched): _stay,
            (_I, Broke): _stay,
            (_I, Announce): _stay,
            (_I, Wait): _stay,
            (_F, Announce): _stay,
            (_F, Wait): _stay,
            (_F, Need): _stay,
            (_F, UpdatePacked): _stay,
            (_T, Announce): _stay,
            (_T, Wait): _stay,
            (_T, Need): _stay,
            (_T, Fetched): _stay,
            (_U, Announce): _stay,
            (_U, Wait): _stay,
            (_U, Fetched): _stay,
            (_U, Broke): _stay,
        }
    )
)
