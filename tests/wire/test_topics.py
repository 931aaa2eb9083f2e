from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_sdk.errors import LocalProtocolError, RemoteProtocolError
from edge_sdk.wire import topics

names = st.from_regex(r"[a-z0-9][a-z0-9-]{1,62}", fullmatch=True)
BLOB = "ab" * 32


@given(names, names, st.integers(0, 999), st.booleans())
def test_what_is_built_is_parsed(fed: str, dev: str, number: int, data: bool) -> None:
    for topic, value in (
        (topics.announcement(fed), topics.AnnouncementTopic()),
        (topics.next_key(fed, number), topics.NextKeyTopic(number)),
        (topics.chunk(fed, BLOB, number), topics.ChunkTopic(BLOB, number)),
        (topics.inbox(fed, dev), topics.InboxTopic(dev)),
        (topics.status(fed, dev), topics.StatusTopic(dev)),
        (
            topics.upload(fed, dev, number, data=data),
            topics.UploadTopic(dev, number, data),
        ),
    ):
        assert topics.parse(topic, fed) == value
        assert topic.count("/") <= 7
        for other in (f"{fed}x", f"x{fed}"):
            with pytest.raises(RemoteProtocolError, match="none of federation"):
                topics.parse(topic, other)


@pytest.mark.parametrize(
    "topic",
    [
        "",
        "c/ann",
        "d/pi-1/in",
        "fl/1/demo",
        "fl/1/demo/",
        "fl/2/demo/c/ann",
        "x/fl/1/demo/c/ann",
        "fl/1/demo/c/ann/more",
        "fl/1/demo/d/PI/in",
        "fl/1/demo/d/p/in",
        "fl/1/demo/d/pi-1/up/x/ctl",
        "fl/1/demo/d/pi-1/up/-1/ctl",
        "fl/1/demo/d/pi-1/up/\u0663/ctl",
        "fl/1/demo/d/pi-1/up/1234567/ctl",
        "fl/1/demo/d/pi-1/up/0/other",
        f"fl/1/demo/m/{BLOB[:-1]}/0",
        f"fl/1/demo/m/{BLOB.upper()}/0",
        f"fl/1/demo/m/{BLOB}/+",
    ],
)
def test_what_is_none_of_ours_is_refused(topic: str) -> None:
    with pytest.raises(RemoteProtocolError, match="none of federation demo"):
        topics.parse(topic, "demo")


@pytest.mark.parametrize(
    "name", ["", "a", "-a", "A1", "a" * 64, "a/b", "a+", "a#", "pi-1\n", "p\u00e9"]
)
def test_a_name_that_may_not_stand_in_a_topic_is_refused(name: str) -> None:
    builders: list[Callable[[], str]] = [
        lambda: topics.inbox("demo", name),
        lambda: topics.inbox(name, "pi-1"),
        lambda: topics.upload("demo", name, 0, data=True),
        lambda: topics.status("demo", name),
    ]
    for build in builders:
        with pytest.raises(LocalProtocolError, match="is not a valid name"):
            build()


def test_topics_are_golden() -> None:
    """A broker's access list is written against these."""
    assert topics.announcement("demo") == "fl/1/demo/c/ann"
    assert topics.chunk("demo", BLOB, 3) == f"fl/1/demo/m/{BLOB}/3"
    assert topics.inbox("demo", "pi-1") == "fl/1/demo/d/pi-1/in"
    assert topics.upload("demo", "pi-1", 0, data=True) == "fl/1/demo/d/pi-1/up/0/dat"
    assert topics.all_uploads("demo", data=False) == "fl/1/demo/d/+/up/+/ctl"
    assert topics.all_statuses("demo") == "fl/1/demo/d/+/st"
