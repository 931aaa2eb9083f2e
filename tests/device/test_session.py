"""The session under everything a lossy pipe, a crash and two coordinators can do."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import get_args

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)
from msgspec import UNSET

from edge_sdk.session import (
    NEXT,
    Booted,
    Broke,
    Connected,
    Effect,
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
    Train,
    UpdatePacked,
    advance,
)
from edge_sdk.session.table import REMEMBERED
from edge_sdk.wire.blob import manifest_of
from edge_sdk.wire.messages import (
    Announce,
    Cancel,
    Fail,
    MaskRecipe,
    Message,
    Need,
    Offer,
    Receipt,
    TaskAck,
    TaskOrder,
    Training,
    Verdict,
    Wait,
)
from edge_sdk.wire.rules import Frozen

Orders = Callable[..., TaskOrder]
Offers = Callable[..., Offer]
BASE = manifest_of(b"base")


def make_order(task_id: str, round_no: int, unasked: int = 0) -> TaskOrder:
    return TaskOrder(
        id=task_id,
        round_no=round_no,
        density=0.5,
        base=BASE,
        mask=MaskRecipe(1, {"fc": 2}, bytes(32)),
        rule=Frozen(),
        training=Training(epochs=1, batch_size=4, learning_rate=0.1),
        ttl_ms=1000,
        shard=0,
        codec="fp32",
        unasked=unasked,
    )


def make_offer(task_id: str) -> Offer:
    return Offer(task_id, BASE, bytes(32), "fp32", 8, 1.0, {})


@dataclass
class Durable:
    """What a journal would hold: written by `Keep` only."""

    epoch: int = 0
    order: TaskOrder | None = None
    offer: Offer | None = None
    finished: list[tuple[str, str]] = field(default_factory=list)


class Devices(RuleBasedStateMachine):
    """One device; messages that wait may be delivered often, late, or never."""

    def __init__(self) -> None:
        super().__init__()
        self.durable = Durable()
        self.session = Session()
        self.pipe: list[Heard] = []  # to the device; a message may be taken many times
        self.epoch = 1  # of the newest coordinator
        self.round_no = 0
        self.numbers = itertools.count()
        self.orders: dict[str, TaskOrder] = {}
        self.accepted: set[str] = set()  # accepted receipts the device has taken
        self.trained: list[str] = []
        self.working: str | None = None  # the task a worker trains right now

    # -- the device -------------------------------------------------------------------

    def feed(self, event: Event) -> tuple[Effect, ...]:
        before = self.session
        self.session, effects = advance(before, event)
        for effect in effects:
            self.carry_out(effect)
        return effects

    def carry_out(self, effect: Effect) -> None:  # noqa: C901 - one case per effect
        match effect:
            case Keep(finished):
                now = self.session
                self.durable.epoch, self.durable.order = now.epoch, now.order
                self.durable.offer = now.offer
                if finished is not None:
                    self.durable.finished.append(finished)
            case Say(TaskAck(task_id)):
                assert self.durable.order is not None, "acknowledged, not kept"
                assert self.durable.order.id == task_id
            case Say(Offer() as offer):
                kept = msgspec.structs.replace(offer, follows=UNSET)
                assert self.durable.offer == kept, "offered, not kept"
            case Say(Fail(task_id)):
                assert (task_id, "failed") in self.durable.finished
                assert self.durable.order is None or self.durable.order.id != task_id
            case Say(message):
                raise AssertionError(f"a device does not say {message}")
            case Train(order):
                assert order.id not in self.accepted, "an accepted task trained again"
                assert self.durable.order == order
                self.trained.append(order.id)
                self.working = order.id
            case Halt(task_id):
                assert task_id
                self.working = None
            case Ship(task_id):
                assert self.durable.offer is not None
                assert self.durable.offer.task_id == task_id
            case Greet() | Fetch():
                pass

    @initialize()
    def start(self) -> None:
        self.feed(Booted(0, None, None))

    @rule()
    def crash_and_restart(self) -> None:
        kept = self.durable
        self.session, self.working = Session(), None
        past = tuple(kept.finished)
        effects = self.feed(Booted(kept.epoch, kept.order, kept.offer, past))
        assert self.session.order == kept.order
        assert self.session.offer == kept.offer
        if kept.order is not None and kept.offer is None:
            assert effects == (Fetch((kept.order.base,)),)

    @rule(event=st.sampled_from([Connected(), Nudge()]))
    def link_or_silence(self, event: Event) -> None:
        before = self.session
        effects = self.feed(event)
        assert self.session == before
        if before.phase is SessionPhase.UPLOAD and before.offer is not None:
            assert Say(before.offer) in effects

    @rule()
    def fetched(self) -> None:
        self.feed(Fetched(BASE.sha256.hex()))

    @precondition(lambda self: self.working)
    @rule()
    def trained_to_the_end(self) -> None:
        assert self.working is not None
        task_id, self.working = self.working, None
        self.feed(UpdatePacked(make_offer(task_id)))
        assert self.session.phase is SessionPhase.UPLOAD

    @precondition(lambda self: self.working)
    @rule()
    def broke(self) -> None:
        assert self.working is not None
        task_id, self.working = self.working, None
        self.feed(Broke(task_id, "no memory"))
        assert self.session.phase is SessionPhase.IDLE

    # -- two coordinators, one after the other, and the pipe ---------------------------

    def publisher(self, message: Message, epoch: int) -> None:
        self.pipe.append(Heard(epoch, message))

    @rule()
    def the_coordinator_restarts(self) -> None:
        self.epoch += 1
        self.publisher(
            Announce("running", "digits", self.round_no, 9, ["fp32"]), self.epoch
        )

    @rule(steps=st.integers(1, 4), copies=st.integers(0, 1))
    def a_round_goes_well(self, steps: int, copies: int) -> None:
        """Most rounds do: up to the order, the base, the offer or the receipt."""
        self.a_new_round_orders(stale=False)
        heard = self.pipe.pop()
        self.pipe += [heard] * copies
        acts: list[Callable[[], object]] = [
            lambda: self.feed(heard),
            self.fetched,
            lambda: self.working and self.trained_to_the_end(),
            self.receive,
        ]
        for act in acts[:steps]:
            act()

    def receive(self) -> None:
        if self.session.offer is not None:
            task_id = self.session.offer.task_id
            self.feed(Heard(self.epoch, Receipt(task_id, "accepted")))
            self.accepted.add(task_id)

    @rule(stale=st.booleans())
    def a_new_round_orders(self, stale: bool) -> None:
        self.round_no += 1
        task_id = f"{self.round_no}-{next(self.numbers)}"
        unasked = BASE.size * (self.round_no % 2)  # in every second round
        self.orders[task_id] = make_order(task_id, self.round_no, unasked)
        self.publisher(self.orders[task_id], max(1, self.epoch - stale))

    @precondition(lambda self: self.orders)
    @rule(data=st.data(), verdict=st.sampled_from(["corrupt", *get_args(Verdict)]))
    def a_receipt(self, data: st.DataObject, verdict: str) -> None:
        """Of what was offered only; anything else would be a lie of the coordinator."""
        offer = self.session.offer
        task_id = offer.task_id if offer else data.draw(st.sampled_from([*self.orders]))
        if verdict == "accepted" and offer is None:
            return
        self.publisher(Receipt(task_id, verdict), self.epoch)  # type: ignore[arg-type]

    @precondition(lambda self: self.orders)
    @rule(data=st.data(), kind=st.sampled_from(["cancel", "need", "wait"]))
    def another_word(self, data: st.DataObject, kind: str) -> None:
        task_id = data.draw(st.sampled_from(sorted(self.orders)))
        words: dict[str, Message] = {
            "cancel": Cancel(task_id, "aborted"),
            "need": Need(task_id, [(0, 1)], 1),
            "wait": Wait(1000, "later"),
        }
        self.publisher(words[kind], self.epoch)

    @precondition(lambda self: self.pipe)
    @rule(data=st.data(), again=st.booleans())
    def deliver(self, data: st.DataObject, again: bool) -> None:
        """Any message, in any order; `again` leaves a duplicate in the pipe."""
        index = data.draw(st.integers(0, len(self.pipe) - 1))
        heard = self.pipe[index] if again else self.pipe.pop(index)
        before, durable = self.session, (self.durable.epoch, self.durable.offer)
        effects = self.feed(heard)
        message = heard.message
        if heard.epoch < before.epoch:
            assert (self.session, effects) == (before, ())
            return
        assert self.durable.epoch >= durable[0]
        if heard.epoch > before.epoch:
            assert effects[:2] == (Keep(), Greet())
        if isinstance(message, Receipt) and before.order is not None:
            about_it = before.order.id == message.task_id
            if about_it and message.verdict == "accepted":
                self.accepted.add(message.task_id)
        if before.offer is not None and self.session.offer is None:
            self.check_leave(before.offer.task_id, message)
        if isinstance(message, TaskOrder) and message.id in self.accepted:
            assert self.session == before, "an accepted task was taken again"
        elif before.order is not None and isinstance(message, TaskOrder):
            assert self.session.order is not None
            assert self.session.order.round_no >= before.order.round_no

    def check_leave(self, task_id: str, message: Message) -> None:
        """Rule 4: a receipt, a cancel, or the task of a later round."""
        match message:
            case Receipt(about, verdict):
                assert about == task_id
                assert verdict != "corrupt"
            case Cancel(about):
                assert about == task_id
            case TaskOrder():
                assert message.round_no >= self.orders[task_id].round_no
                assert message.id != task_id
            case _:
                raise AssertionError(f"{message} emptied the outbox")

    @precondition(lambda self: self.pipe)
    @rule(data=st.data())
    def drop(self, data: st.DataObject) -> None:
        self.pipe.pop(data.draw(st.integers(0, len(self.pipe) - 1)))

    # -- always ----------------------------------------------------------------------

    @invariant()
    def what_is_held_is_durable(self) -> None:
        if self.session.phase is SessionPhase.BOOT:
            return
        now = self.session
        assert (now.order, now.offer) == (self.durable.order, self.durable.offer)
        assert now.epoch == self.durable.epoch

    @invariant()
    def phases_mean_what_they_say(self) -> None:
        now = self.session
        held = {SessionPhase.FETCH, SessionPhase.TRAIN, SessionPhase.UPLOAD}
        assert (now.order is not None) == (now.phase in held)
        assert (now.offer is not None) == (now.phase is SessionPhase.UPLOAD)
        if now.offer is not None and now.order is not None:
            assert now.offer.task_id == now.order.id
        assert (self.working is None) or now.phase is SessionPhase.TRAIN
        if now.phase is SessionPhase.TRAIN and now.order is not None:
            assert self.working == now.order.id


TestDevices = Devices.TestCase
TestDevices.settings = settings(max_examples=150, stateful_step_count=50)


# -- single sentences ----------------------------------------------------------------


def idle(**kept: object) -> Session:
    return advance(Session(), Booted(1, None, None, **kept))[0]  # type: ignore[arg-type]


def test_a_whole_task_told_once(order: Orders, offer: Offers) -> None:
    session, effects = advance(idle(), Heard(1, order("1-a")))
    assert effects == (Keep(), Say(TaskAck("1-a")), Fetch((order("1-a").base,)))
    session, effects = advance(session, Fetched(order("1-a").base.sha256.hex()))
    assert effects == (Train(order("1-a")),)
    session, effects = advance(session, UpdatePacked(offer("1-a")))
    assert effects == (Keep(), Say(offer("1-a")))
    session, effects = advance(session, Heard(1, Need("1-a", [(0, 1)], 16)))
    assert effects == (Ship("1-a", ((0, 1),), 16),)
    session, effects = advance(session, Heard(1, Receipt("1-a", "accepted")))
    assert effects == (Halt("1-a"), Keep(("1-a", "accepted")))
    assert session.phase is SessionPhase.IDLE


def test_a_small_update_follows_its_offer_once(order: Orders, offer: Offers) -> None:
    """Said again it waits for a NEED: what was lost is not known here."""
    made = offer("1-a")
    size, count = made.manifest.size, len(made.manifest.chunks)
    for unasked in (0, size - 1, size, size + 1):
        asked = msgspec.structs.replace(order("1-a"), unasked=unasked)
        session = replace(idle(), phase=SessionPhase.TRAIN, order=asked)
        session, effects = advance(session, UpdatePacked(made))
        assert session.offer == made
        if unasked < size:
            assert effects == (Keep(), Say(made))
        else:
            first = msgspec.structs.replace(made, follows=True)
            chunks = Ship("1-a", ((0, count),), count)
            assert effects == (Keep(), Say(first), chunks)
        assert advance(session, Nudge())[1] == (Greet(), Say(made))


@pytest.mark.parametrize("verdict", ["accepted", "late", "rejected", "cancelled"])
def test_a_task_that_ended_here_is_not_taken_again(order: Orders, verdict: str) -> None:
    session = idle(finished=(("1-a", verdict),))
    assert advance(session, Heard(1, order("1-a"))) == (session, ())


def test_a_task_that_failed_here_is_refused_again(order: Orders) -> None:
    """The FAIL that said so may have been lost."""
    session = idle(finished=(("1-a", "failed"),))
    after, effects = advance(session, Heard(1, order("1-a")))
    assert after == session
    assert effects == (Say(Fail("1-a", "this task has failed here before")),)


def test_only_the_latest_ends_are_remembered() -> None:
    past = tuple((f"{i}-x", "accepted") for i in range(200))
    assert idle(finished=past).finished == past[-REMEMBERED:]


def test_an_echo_of_an_older_round_does_not_displace_a_newer_task(
    order: Orders,
) -> None:
    session, _ = advance(idle(), Heard(1, order("2-b", 2)))
    assert advance(session, Heard(1, order("1-a", 1))) == (session, ())
    after, effects = advance(session, Heard(1, order("3-c", 3)))
    assert after.order == order("3-c", 3)
    assert effects[:2] == (Halt("2-b"), Keep(("2-b", "displaced")))
    assert advance(after, Heard(1, order("2-b", 2))) == (after, ())
    idle_again, _ = advance(after, Heard(1, Receipt("3-c", "accepted")))
    assert advance(idle_again, Heard(1, order("2-b", 2))) == (idle_again, ())


def test_a_restarted_coordinator_is_told_where_we_are(order: Orders) -> None:
    session, _ = advance(idle(), Heard(1, order("1-a")))
    announce = Announce("running", "digits", 1, 9, ["fp32"])
    after, effects = advance(session, Heard(2, announce))
    assert (after.epoch, effects) == (2, (Keep(), Greet()))
    assert advance(after, Heard(1, Cancel("1-a", "stale"))) == (after, ())


def test_nothing_is_heard_before_the_journal_is_read(order: Orders) -> None:
    """A Keep now would overwrite what the journal holds."""
    for event in (Heard(9, order("1-a")), Connected(), Nudge(), Fetched("x")):
        assert advance(Session(), event) == (Session(), ())


def test_a_corrupt_receipt_offers_again(order: Orders, offer: Offers) -> None:
    session, _ = advance(Session(), Booted(1, order("1-a"), offer("1-a")))
    after, effects = advance(session, Heard(1, Receipt("1-a", "corrupt")))
    assert (after, effects) == (session, (Say(offer("1-a")),))


def test_a_corrupt_receipt_before_there_is_an_offer_ends_nothing(
    order: Orders,
) -> None:
    session, _ = advance(idle(), Heard(1, order("1-a")))
    assert advance(session, Heard(1, Receipt("1-a", "corrupt"))) == (session, ())


def test_a_long_reason_is_cut_to_what_travels(order: Orders) -> None:
    session, _ = advance(idle(), Heard(1, order("1-a")))
    _, effects = advance(session, Broke("1-a", "x" * 9999))
    assert effects[-1] == Say(Fail("1-a", "x" * 500))


def test_every_pair_is_in_the_table_or_changes_nothing() -> None:
    """A message of the coordinator has a row in every phase after BOOT."""
    heard = {Announce, Wait, TaskOrder, Need, Receipt, Cancel}
    own = {Connected, Nudge, Fetched, UpdatePacked, Broke}
    phases = set(SessionPhase) - {SessionPhase.BOOT}
    missing = {(p, k) for p in phases for k in heard | own} - set(NEXT)
    assert {(p, k) for p, k in missing if k in heard} == set()
    # A worker's word cannot come in these; they are left out and change nothing.
    for phase, kind in missing:
        assert kind in (Broke, UpdatePacked, Fetched), (phase, kind)
