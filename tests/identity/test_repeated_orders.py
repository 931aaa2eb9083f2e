"""What the coordinator once signed and somebody says again, later or after a restart.

Whoever runs the broker can keep every packet and send it when it likes.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from patience import patience, waited

from coordinator.delivery.sender import DeliverySender
from coordinator.delivery.store import DeliveryStore
from coordinator.protocol.publisher import VALID_S, Publisher
from coordinator.protocol.receiver import MessageReceiver
from edge_sdk.agent import Agent, Identity
from edge_sdk.deploy.target import DeployTarget
from edge_sdk.identity.folder import DeviceFolder
from edge_sdk.storage.journal import Journal
from edge_sdk.transport.base import ReceivedMessage
from edge_sdk.transport.memory import MemoryBroker
from edge_sdk.wire import topics
from edge_sdk.wire.blob import manifest_of
from edge_sdk.wire.codec import decode
from edge_sdk.wire.messages import (
    Announce,
    Install,
    MaskRecipe,
    Message,
    Running,
    TaskAck,
    TaskOrder,
    Training,
    Wait,
)
from edge_sdk.wire.rules import Frozen

Site = Any
INBOX = topics.inbox("home", "pi-1")
RUNNING = Announce("running", "digits", 1, 9, ["fp32"])
DONE = Announce("done", "digits", 9, 9, ["fp32"])
WAIT_S = 60.0


class NoTrainer:
    """Never comes to train: no base ever arrives."""

    engine, engines = "masked", ("masked",)

    def run(self, *_: Any) -> Any:
        raise AssertionError


class Scene:
    """An enrolled device, a coordinator's messages, all that a broker has kept."""

    def __init__(self, site: Site) -> None:
        self.site, self.identities = site, site.identities
        self.device_keys: DeviceFolder = site.device("pi-1")
        self.broker = MemoryBroker()
        self.said: list[tuple[str, Message]] = []
        self.kept: list[bytes] = []  # every packet to the device, as a broker may
        tap = self.broker.connect(self._keep, lambda _: None)
        tap.subscribe(INBOX)
        tap.subscribe(topics.announcement("home"))
        self.now = 1000.0
        self.link = self.broker.connect(self._hear, lambda _: None)
        for data in (False, True):
            self.link.subscribe(topics.all_uploads("home", data=data))
        self.restart_coordinator(epoch=7)
        self.agent: Agent | None = None
        self.ends = 0

    def restart_coordinator(self, epoch: int) -> None:
        seal = self.identities.seal
        self.publisher = Publisher(
            self.link, "home", epoch, seal.sign, lambda: self.now, seal.number
        )
        self.receiver = MessageReceiver(
            "home", self.identities, self.publisher, lambda: self.now
        )

    def _keep(self, delivery: ReceivedMessage) -> None:
        self.kept.append(delivery.payload)

    def _hear(self, delivery: ReceivedMessage) -> None:
        heard = self.receiver.read(delivery)
        if heard is not None:
            self.said.append((heard[0], heard[1].message))

    def start(self, clock: Callable[[], float] | None = None) -> None:
        """The device, in a new process; its clock may be turned by hand."""
        state = self.site.folder / "state"
        self.agent = Agent(
            Identity("pi-1", "home", "digits", 8, {"board": "pi-4b"}),
            self.broker.connect,
            Journal(state),
            NoTrainer(),
            device_keys=self.device_keys,
            place=DeployTarget(self.site.folder / "models", state),
            clock=clock or (lambda: self.now),
        )
        self.thread = threading.Thread(target=self.agent.run, daemon=True)
        self.said.clear()
        self.thread.start()
        self.hears(Running)  # follows HELLO

    def stop(self) -> None:
        if self.agent is not None:
            self.agent.stop()
            self.thread.join(patience(WAIT_S))
            self.agent.close()
            self.agent = None

    def hears(self, kind: type, but: int = 0) -> Any:
        """The device's next word of a kind since `said` was cleared."""

        def found() -> list[Message]:
            return [m for _, m in list(self.said) if isinstance(m, kind)]

        came = waited(lambda: len(found()) > but, WAIT_S)
        assert came, f"no {kind.__name__} in {self.said}"
        return found()[but]

    def until(self, what: Callable[[], bool]) -> None:
        assert waited(what, WAIT_S)

    def packets(self, kind: str) -> list[bytes]:
        return [p for p in self.kept if decode(p).header.type == kind]

    def settle(self) -> None:
        """The agent has handled everything that was sent to it up to now."""
        self.ends += 1
        before = len([m for _, m in self.said if isinstance(m, TaskAck)])
        self.publisher.tell("pi-1", order(f"{100 + self.ends}-end", 100 + self.ends))
        self.hears(TaskAck, before)


def order(task_id: str, round_no: int) -> TaskOrder:
    return TaskOrder(
        id=task_id,
        round_no=round_no,
        density=0.5,
        base=manifest_of(b"a base that never comes"),
        mask=MaskRecipe(1, {"fc": 2}, bytes(32)),
        rule=Frozen(),
        training=Training(epochs=1, batch_size=4, learning_rate=0.1),
        ttl_ms=1000,
        shard=0,
        codec="fp32",
    )


def install(no: int) -> Install:
    bundle = b"bundle %d" % no
    return Install(no, manifest_of(bundle), manifest_of(bundle).sha256)


@pytest.fixture
def scene(site: Site) -> Iterator[Scene]:
    made = Scene(site)
    yield made
    made.stop()


def test_an_order_to_install_that_is_repeated_after_a_restart_is_refused_and_named(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    deliveries = DeliverySender(
        DeliveryStore(scene.site.folder), scene.publisher, lambda: scene.now
    )
    scene.start()
    for no in (4, 5):
        scene.publisher.tell("pi-1", install(no))
    scene.settle()
    scene.stop()
    (old, new) = scene.packets("install")
    scene.start()
    scene.said.clear()
    with caplog.at_level(logging.WARNING):
        scene.link.publish(INBOX, old)
        said = scene.hears(Running)
        assert (said.no, said.verdict) == (4, "refused")
        assert "before delivery 5" in said.why
        assert any("delivery 4" in r.getMessage() for r in caplog.records)
        caplog.clear()
        deliveries.told("pi-1", said)
    assert any("pi-1: delivery 4" in r.getMessage() for r in caplog.records)
    scene.said.clear()
    scene.link.publish(INBOX, old)  # the same packet again is not answered again
    scene.settle()
    assert not any(isinstance(m, Running) for _, m in scene.said)
    assert decode(new).message == install(5)


def test_the_latest_order_still_holds_when_it_is_said_again_after_a_restart(
    scene: Scene,
) -> None:
    scene.start()
    scene.publisher.tell("pi-1", install(5))
    scene.settle()
    scene.stop()
    scene.start()
    scene.publisher.tell("pi-1", install(5))
    scene.settle()
    assert scene.agent is not None
    assert scene.agent._session_effects.installer.fetching


def test_a_task_that_was_recorded_before_a_restart_is_not_trained_again(
    scene: Scene,
) -> None:
    """The device remembers 64 verdicts; a recorded order may be far older."""
    scene.start()
    scene.publisher.tell("pi-1", order("1-old", 1))
    scene.hears(TaskAck)
    scene.stop()
    (old,) = scene.packets("task")
    (scene.site.folder / "state" / "journal.msgpack").unlink()  # all verdicts forgotten
    scene.publisher.announce(
        RUNNING
    )  # from which it learns the epoch that it has forgotten
    scene.start()
    scene.said.clear()
    scene.link.publish(INBOX, old)
    scene.publisher.tell("pi-1", order("2-new", 2))
    assert scene.hears(TaskAck).task_id == "2-new"


def test_an_order_without_an_echo_that_was_heard_before_a_restart_is_not_new(
    scene: Scene,
) -> None:
    """As a coordinator of 0.1 signs it, or one that has not heard the device yet."""
    scene.start()
    mute = Publisher(
        scene.link, "home", 7, scene.identities.seal.sign, lambda: scene.now
    )
    mute.tell("pi-1", order("1-old", 1))
    scene.hears(TaskAck)
    mute.tell("pi-1", order("2-newer", 2))
    scene.hears(TaskAck, 1)
    scene.stop()
    old = scene.packets("task")[0]
    assert decode(old).header.echo.__class__.__name__ == "UnsetType"
    scene.start()
    scene.said.clear()
    scene.link.publish(INBOX, old)
    mute.tell("pi-1", order("3-new", 3))
    assert scene.hears(TaskAck).task_id == "3-new"


def test_a_message_that_was_held_back_ends_by_itself_whatever_the_boards_date(
    scene: Scene,
) -> None:
    """No date is asked: a board in 1970 and one in 2099 judge it alike."""
    scene.start()
    held = Publisher(
        MemoryBroker().connect(lambda _: None, lambda _: None), "home", 7,
        scene.identities.seal.sign, lambda: scene.now,
    )  # fmt: skip
    packets: list[bytes] = []
    held._transport.publish = lambda _t, p, **_k: packets.append(p)  # type: ignore[method-assign]
    held._boot, held._heard = scene.publisher._boot, scene.publisher._heard
    held._seq = 500
    held.tell("pi-1", install(4))
    held.tell("pi-1", order("4-held", 4))
    held.tell("pi-1", order("5-in-time", 5))
    scene.now += VALID_S - 60
    scene.link.publish(INBOX, packets[2])
    assert scene.hears(TaskAck).task_id == "5-in-time"
    scene.now += 120
    scene.said.clear()
    for packet in packets[:2]:
        scene.link.publish(INBOX, packet)
    scene.settle()
    assert [m.task_id for _, m in scene.said if isinstance(m, TaskAck)] == ["101-end"]
    assert scene.agent is not None
    assert not scene.agent._session_effects.installer.busy


def test_a_device_that_was_silent_for_long_is_answered_all_the_same(
    scene: Scene,
) -> None:
    """What holds is counted from when the coordinator signs, not from HELLO."""
    scene.start()
    scene.now += 20 * VALID_S
    scene.publisher.tell("pi-1", order("1-a", 1))
    assert scene.hears(TaskAck).task_id == "1-a"


def test_an_older_announcement_of_the_same_coordinator_is_not_heard_again(
    scene: Scene,
) -> None:
    scene.publisher.announce(DONE)
    scene.publisher.announce(RUNNING)
    done, running = scene.packets("announce")
    scene.start()
    topic = topics.announcement("home")
    scene.link.publish(topic, running, retain=True)
    scene.settle()
    scene.link.publish(topic, done, retain=True)
    scene.settle()
    assert scene.agent is not None
    assert not scene.agent.finished
    scene.stop()
    scene.start()  # the old word is what the broker has kept
    scene.settle()
    assert scene.agent is not None
    assert not scene.agent.finished


def test_a_wait_of_an_earlier_life_does_not_hold_the_device_back(scene: Scene) -> None:
    scene.start()
    scene.publisher.tell("pi-1", Wait(3_600_000, "long"))
    scene.settle()
    scene.stop()
    (old,) = scene.packets("wait")
    (scene.site.folder / "state" / "journal.msgpack").unlink()
    scene.publisher.announce(RUNNING)
    scene.start()
    scene.link.publish(INBOX, old)
    scene.settle()
    assert scene.agent is not None
    assert scene.agent._session_effects.hold.back_at == 0.0


def warned(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]


def rotate(scene: Scene) -> None:
    scene.site.reopen().rotate()  # by a command in another process
    scene.identities.refresh()  # as the guard does, before the loop hears of it
    scene.publisher.tell("pi-1", Wait(0, "said in between"))
    scene.receiver.announcements.rotated()


def test_a_rotation_is_followed_without_a_warning_of_any_signature(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    scene.receiver.announcements.publish_keys()
    scene.publisher.announce(RUNNING)
    scene.start()
    for _ in range(3):
        rotate(scene)
        scene.settle()
        scene.publisher.after_connect()  # as after a restarted broker
        scene.settle()
    assert scene.device_keys.number == 3
    assert warned(caplog) == []
    assert scene.agent is not None
    assert scene.agent.dropped == 0


def test_a_device_that_slept_through_rotations_follows_them_without_a_warning(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    scene.publisher.announce(RUNNING)
    for _ in range(3):
        rotate(scene)
    scene.start()
    scene.until(lambda: scene.device_keys.number == 3)
    scene.settle()
    assert warned(caplog) == []


def test_a_coordinator_that_was_down_in_a_rotation_is_followed_without_a_warning(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    """Its last word, under the old key, is retained until it is back."""
    scene.publisher.announce(RUNNING)
    scene.start()
    scene.settle()
    scene.identities.rotate()
    scene.identities = scene.site.reopen()
    scene.restart_coordinator(epoch=8)
    scene.receiver.announcements.publish_keys()
    scene.stop()
    scene.start()  # between the two words of the coordinator's start
    scene.publisher.announce(RUNNING)
    scene.settle()
    assert scene.device_keys.number == 1
    assert warned(caplog) == []


def test_a_word_under_the_pinned_key_that_does_not_hold_is_still_warned_of(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    scene.start()
    forged = bytearray(scene_packet(scene))
    forged[-1] ^= 1
    scene.link.publish(INBOX, bytes(forged))
    scene.settle()
    assert any("does not hold" in text for text in warned(caplog))


def scene_packet(scene: Scene) -> bytes:
    scene.publisher.tell("pi-1", Wait(0, "x"))
    return scene.packets("wait")[-1]
