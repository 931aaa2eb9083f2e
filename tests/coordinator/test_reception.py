"""Two coordinators of one run on one broker: which one goes on."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import TypeAlias

import pytest

from coordinator.post import Post
from coordinator.reception import Reception
from edge_sdk.errors import StateError
from edge_sdk.transport.base import Delivery, Transport
from edge_sdk.transport.memory import MemoryBroker
from edge_sdk.wire import topics
from edge_sdk.wire.codec import decode
from edge_sdk.wire.messages import Announce

Connect: TypeAlias = Callable[[list[Delivery]], Transport]
RUNNING = Announce("running", "digits", 1, 3, ["fp32"])
TOPIC = topics.announcement("home")


@pytest.fixture
def connect() -> Connect:
    """Connects to one broker and hears what is announced there."""
    broker = MemoryBroker()

    def link(heard: list[Delivery]) -> Transport:
        made = broker.connect(heard.append, lambda _: None)
        made.subscribe(TOPIC)
        return made

    return link


def test_a_coordinator_ends_when_a_newer_one_has_announced_itself(
    connect: Connect,
) -> None:
    heard: list[Delivery] = []
    older = Reception("home", None, Post(connect(heard), "home", 7), lambda: 0.0)
    Post(connect([]), "home", 8).announce(RUNNING)
    with pytest.raises(StateError, match="it announces epoch 8, this one has 7") as why:
        older.read(heard[-1])
    assert "resume the newer one" in why.value.help
    assert older.taken_over


def test_a_coordinator_hears_itself_and_goes_on(connect: Connect) -> None:
    heard: list[Delivery] = []
    post = Post(connect(heard), "home", 7)
    reception = Reception("home", None, post, lambda: 0.0)
    post.announce(RUNNING)
    assert reception.read(heard[-1]) is None
    assert len(heard) == 1
    assert not reception.taken_over


def test_an_older_coordinators_word_does_not_stay_in_the_newer_ones_place(
    connect: Connect,
) -> None:
    heard: list[Delivery] = []
    post = Post(connect(heard), "home", 8)
    reception = Reception("home", None, post, lambda: 0.0)
    post.announce(RUNNING)
    Post(connect([]), "home", 7).announce(RUNNING)
    assert reception.read(heard[-1]) is None
    late: list[Delivery] = []
    connect(late)
    assert [decode(one.payload).header.epoch for one in late] == [8]


def test_of_two_copies_started_from_one_state_exactly_one_goes_on(
    connect: Connect,
) -> None:
    """Both count on to the same epoch; what they drew at their start decides."""
    heard: list[Delivery] = []
    posts = [Post(connect(heard), "home", 7), Post(connect([]), "home", 7)]
    receptions = [Reception("home", None, post, lambda: 0.0) for post in posts]
    for post in posts:
        post.announce(RUNNING)
        word = heard[-1]
        for reception in receptions:
            with contextlib.suppress(StateError):
                reception.read(word)
    assert sum(one.taken_over for one in receptions) == 1
