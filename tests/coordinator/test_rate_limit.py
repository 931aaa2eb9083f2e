"""Token buckets under any course of time, and what is said seldom."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from coordinator.rate_limit import Buckets, Excess, Flood, Rate, Seldom
from edge_sdk.wire.blob import manifest_of
from edge_sdk.wire.messages import Offer, Status, TaskAck

steps = st.lists(st.floats(0, 100), min_size=1, max_size=200)


@given(steps, st.floats(0.1, 10), st.integers(1, 20))
def test_no_more_passes_than_the_burst_and_what_comes_back(
    steps: list[float], per_s: float, burst: int
) -> None:
    buckets, rate, now, passed = Buckets(4), Rate(per_s, burst), 0.0, 0
    for step in steps:
        now += step
        passed += buckets.take("pi-1", rate, now)
        assert passed <= burst + per_s * now + 1e-6


def test_what_is_refused_costs_nothing_so_a_flood_gets_its_rate() -> None:
    buckets, rate = Buckets(4), Rate(per_s=1.0, burst=2.0)
    passed = sum(buckets.take("pi-1", rate, tick / 1000) for tick in range(10_000))
    assert passed == 2 + 9


def test_one_that_floods_takes_nothing_from_others_nor_from_another_kind() -> None:
    buckets, rate = Buckets(10), Rate(0.1, 1.0)
    for _ in range(100):
        buckets.take(("pi-1", "hello"), rate, 0.0)
    assert buckets.take(("pi-2", "hello"), rate, 0.0)
    assert buckets.take(("pi-1", "offer"), rate, 0.0)


def test_names_made_up_by_strangers_fill_no_memory() -> None:
    buckets, seldom = Buckets(10), Seldom(60.0, most=10)
    for number in range(1000):
        buckets.take(number, Rate(1, 1), float(number))
        seldom.say(number, float(number))
    assert len(buckets) == 10
    assert len(seldom._said) == 10


def test_a_clock_that_stands_back_gives_nothing_and_breaks_nothing() -> None:
    buckets, rate = Buckets(4), Rate(1.0, 2.0)
    times = 100.0, 50.0, 50.0, 100.5, 101.0
    assert [buckets.take("pi-1", rate, at) for at in times] == [
        *(True, True, False),  # nothing came back, and nothing was lost
        *(False, True),  # the time counts from the latest that was seen
    ]


def test_more_than_a_full_bucket_holds_is_had_by_a_full_one() -> None:
    buckets, rate = Buckets(4), Rate(1.0, 2.0)
    assert buckets.take("pi-1", rate, 0.0, cost=99.0)
    assert not buckets.take("pi-1", rate, 0.0)  # and it is empty then
    assert not buckets.take("pi-1", rate, 1.9, cost=99.0)
    assert buckets.take("pi-1", rate, 2.0, cost=99.0)


def test_a_thing_is_said_again_with_how_often_it_was_not() -> None:
    seldom = Seldom(10.0)
    said = [seldom.say("a", float(at)) for at in range(25)]
    assert [n for n in said if n is not None] == [0, 9, 9]
    assert seldom.say("b", 24.5) == 0


def test_a_device_may_answer_orders_however_fast_they_come() -> None:
    """Twenty rounds a second for a minute; what is beyond an order's worth is not."""
    now, sent, told = [0.0], [0], list[Excess]()
    flood = Flood(lambda: now[0], told.append, orders=lambda _: sent[0])
    made = manifest_of(b"x"), bytes(32), "fp32", 1, 0.0, dict[str, float]()
    said = [Status(True, "training")] * 5 + [TaskAck("1-a"), Offer("1-a", *made)]

    def one_round(times: int) -> list[bool]:
        now[0] += 0.05
        sent[0] += 1
        return [flood.lets_say("pi-1", one) for one in said * times]

    assert all(all(one_round(2)) for _ in range(1200))
    assert not told
    assert not all(all(one_round(30)) for _ in range(100))
    assert {one.device for one in told} == {"pi-1"}
    silent = Flood(lambda: 0.0, told.append)  # who was sent no order has its rate alone
    assert sum(silent.lets_say("pi-2", said[-1]) for _ in range(1000)) == 50
