"""Whole runs in virtual time: whatever devices do, everybody's data trains."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from virtual import Device, House

from coordinator.rounds.state import TaskPhase
from coordinator.rounds.tasks import warm_up_cohort
from coordinator.settings import WarmUpSettings
from device_profiles import load_board
from edge_sdk.agent.silence import STUCK_S, TransferWatch
from edge_sdk.errors import RunError
from edge_sdk.session import SessionPhase
from edge_sdk.transport.base import ReceivedMessage
from edge_sdk.wire import topics
from edge_sdk.wire.codec import Header, decode, encode, tag_of
from edge_sdk.wire.messages import Fail, Hello, Message, TaskOrder, Wait

Make = Callable[..., House]
Answer = Callable[[TaskOrder], Message | None]
WARM_UP_S = 540.0  # longer than every wait and every bound there is


@pytest.fixture
def house(tmp_path: Path) -> Iterator[Make]:
    made: list[House] = []

    def make(**changes: Any) -> House:
        made.append(House(tmp_path / f"house-{len(made)}", **changes))
        return made[-1]

    yield make
    for one in made:
        one.close()


def takes(order: Any) -> float:
    """A warm-up is long, a round is not."""
    return 20.0 if order.round_no else WARM_UP_S


def busy(device: Device) -> bool:
    return (
        device.agent is not None
        and device.agent._session_effects.session.order is not None
    )


@pytest.mark.parametrize("seed", range(6))
def test_everybodys_data_has_trained_by_round_three(house: Make, seed: int) -> None:
    """Eight devices idle through a warm-up, and reconnect, at random."""
    rng = np.random.default_rng(seed)
    here = house(warm_up=WarmUpSettings(devices=2), rounds=3)
    for place in range(8):
        here.join(f"pi-{place}", takes=takes, lossy=lambda: rng.random() < 0.05)
    cut: dict[str, float] = {}

    def disturb() -> bool:
        for name, device in here.devices.items():
            if name in cut:
                if here.clock() >= cut[name]:
                    device.wire.mend()
                    del cut[name]
            elif not busy(device) and rng.random() < 0.02:
                device.wire.cut(will=rng.random() < 0.7)
                cut[name] = here.clock() + rng.uniform(0, 30)
        return here.coordinator.done

    here.until(disturb)
    assert min(here.trained().values()) >= 1, here.state()


def test_who_is_overdue_is_waited_for_no_more_once_the_quorum_is_in(
    house: Make,
) -> None:
    """Four are asked, and the last one never ends; three are a quorum."""
    here = house(algorithm="erk", rounds=1, wait_for=4)
    for place, seconds in enumerate((5.0, 10.0, 15.0, 1e6)):
        here.join(f"pi-{place}", takes=lambda _, s=seconds: s, examples=5000)
    ledger = here.coordinator.ledger
    timing = here.coordinator.server._controller.timing

    def answered() -> int:
        return sum(row.phase is TaskPhase.ACCEPTED for row in ledger.tasks(1))

    here.until(lambda: answered() == 2)
    first, shown = timing.deadline, ledger.deadline_of(1)
    assert first is not None
    assert timing._opened + timing._first_s == first  # no quorum, all of the time
    here.until(lambda: answered() == 3)
    assert timing.deadline is not None
    assert timing.deadline < first
    assert shown is not None
    assert str(ledger.deadline_of(1)) != shown  # where people look for it
    nearer = timing.deadline
    here.run()
    assert nearer <= here.clock() < first
    assert here.trained() == {"pi-0": 1, "pi-1": 1, "pi-2": 1, "pi-3": 0}
    assert ledger.rounds()[-1].phase.value == "done"


def test_a_device_that_always_fails_ends_no_run_of_two_or_three(house: Make) -> None:
    """It is asked seldom, counted on never, and named; the others go on."""
    for devices in (2, 3):
        here = house(algorithm="erk", rounds=8)
        for place in range(devices):
            fails = "loss is not finite" if place == 0 else ""
            here.join(f"pi-{place}", cannot=fails)
        here.run()
        ledger = here.coordinator.ledger
        assert [r.phase.value for r in ledger.rounds()] == ["done"] * 8
        asked = ledger.parts()["pi-0"]["asked"]
        assert asked == 3  # rounds 1, 3 and 6: one, two, four rounds between
        assert set(here.trained().values()) == {0, 8}
        out = ledger.standing()["pi-0"]
        assert (out["until"], out["why"]) == (
            *(11, "failed 3 times in a row: loss is not finite"),
        )


def test_a_failing_device_that_is_mended_is_counted_on_again(house: Make) -> None:
    here = house(algorithm="erk", rounds=12)
    for place in range(3):
        here.join(f"pi-{place}", cannot="full" if place == 0 else "")
    here.until(lambda: here.coordinator.ledger.rounds_done() >= 2)
    here.devices["pi-0"].cannot = ""
    here.run()
    assert here.trained()["pi-0"] == 12 - 2  # not in 1, and out in 2


def test_who_cannot_is_asked_once_until_it_says_something_else(house: Make) -> None:
    """Drawn for the warm-up first: the warm-up is another device's then."""
    names = dict.fromkeys(("a-lone", "pi-1", "pi-2"), 0.2)
    seed = next(s for s in range(99) if "a-lone" in warm_up_cohort(s, names, 1))
    here = house(warm_up=WarmUpSettings(devices=1), rounds=9, seed=seed)
    lone = here.join("a-lone", cannot="one example", lasting=True, examples=1)
    here.join("pi-1")
    here.join("pi-2")
    here.until(lambda: here.coordinator.ledger.rounds_done() >= 3)
    ledger = here.coordinator.ledger
    assert len(lone.trained) == 1
    rounds = [(r.goal, r.quorum) for r in ledger.rounds() if r.no]
    assert set(rounds) == {(2, 1)}
    lone.kill()
    lone.start()  # somebody may have mended it: asked once more, beside the others
    here.until(lambda: len(lone.trained) == 2)
    here.until(lambda: ledger.rounds_done() >= 5)
    assert len(lone.trained) == 2
    lone.kill()
    lone.cannot, lone.examples = "", 50
    lone.start()
    here.run()
    assert here.trained()["a-lone"] >= 1
    assert {r.phase.value for r in ledger.rounds()} == {"done"}


def test_a_warm_up_that_takes_longer_than_was_reckoned_is_waited_for(
    house: Make,
) -> None:
    """Devices say how far they are; four times the first deadline is enough here."""
    here = house(warm_up=WarmUpSettings(devices=2), rounds=1)
    for name in ("pi-0", "pi-1"):
        here.join(name, takes=takes)
    here.run()
    (warm_up, _) = here.coordinator.ledger.rounds()
    assert (warm_up.phase.value, warm_up.note) == ("done", "")
    assert here.devices["pi-0"].trained == [0, 1]


def test_a_warm_up_that_nobody_answers_is_tried_with_others_then_done_without(
    house: Make,
) -> None:
    for others in (0, 2):
        here = house(warm_up=WarmUpSettings(devices=2), rounds=2)
        for place in range(2):
            here.join(f"a-{place}", takes=lambda o: 9.0 if o.round_no else 1e9)
        for place in range(others):
            here.join(f"pi-{place}", board="raspberry_pi_zero_2_w")
        here.run(60_000.0)
        ledger = here.coordinator.ledger
        assert [r.phase.value for r in ledger.rounds()] == ["done"] * 3
        note = ledger.rounds()[0].note
        if others:
            assert note == ""
            assert {u.device for u in ledger.frozen(0)} == {"pi-0", "pi-1"}
        else:
            assert "those of equal-counts" in note
            assert ledger.frozen(0) == []
        assert min(here.trained().values()) >= 1


def test_a_ledger_of_0_1_0_whose_warm_up_was_aborted_is_resumed(house: Make) -> None:
    here = house(warm_up=WarmUpSettings(devices=2), rounds=1)
    ledger = here.coordinator.ledger
    ledger.plan_round(0, goal=2, quorum=2, rate=0.1, base="")
    ledger.issue_tasks(0, [])
    ledger.abort(0, "the deadline passed with 0 of at least 2 updates")
    for name in ("pi-0", "pi-1"):
        here.join(name)
    here.run()
    assert [r.phase.value for r in ledger.rounds()] == ["done"] * 2
    assert len(ledger.frozen(0)) == 2


def test_an_old_will_decides_nothing_and_a_device_that_answers_is_here(
    house: Make,
) -> None:
    """Whoever can write to the status topic repeats what was said there before."""
    here = house(algorithm="erk", rounds=7)
    said: dict[str, list[bytes]] = {}
    spy = here.broker.connect(
        lambda d: said.setdefault(d.topic, []).append(d.payload), lambda _: None
    )
    spy.subscribe("fl/1/home/d/+/st")
    for place in range(3):
        here.join(f"pi-{place}")
    for device in here.devices.values():  # a will is on the broker, the link is anew
        here.turn()
        device.wire.cut()
        device.wire.mend()

    def repeated() -> bool:
        for topic, packets in list(said.items()):
            for packet in packets[:6]:
                spy.publish(topic, packet, retain=True)
        return here.coordinator.done

    here.until(repeated)
    assert set(here.trained().values()) == {7}


def test_all_wills_at_once_then_all_come_back(house: Make) -> None:
    """As when a broker restarts in the middle of a round."""
    here = house(algorithm="erk", rounds=3)
    for place in range(4):
        here.join(f"pi-{place}", takes=lambda _: 60.0)
    here.until(lambda: busy(here.devices["pi-0"]))
    for device in here.devices.values():
        device.wire.cut()
    here.turn()
    assert here.coordinator.server._fleet.present() == set()
    for device in here.devices.values():
        device.wire.mend()
    here.run()
    assert set(here.trained().values()) == {3}


def test_a_coordinator_that_starts_anew_finds_idle_devices(house: Make) -> None:
    here = house(warm_up=WarmUpSettings(devices=1), rounds=3)
    for place in range(4):
        here.join(f"pi-{place}", takes=takes)
    here.until(lambda: here.clock() > 1200.0)
    here.coordinator.close()
    here.coordinator = here.coordinate()
    here.run()
    assert set(here.trained().values()) == {3}


def test_a_pause_ends_with_the_life_that_told_of_it(house: Make) -> None:
    """The owner lifts the limits and starts the agent again: it is asked at once."""
    here = house(algorithm="erk", rounds=5)
    for place in range(3):
        here.join(f"pi-{place}")
    here.turn()
    paused = here.devices["pi-0"]
    assert paused.agent is not None
    paused.agent._session_effects._say(Wait(8 * 3600 * 1000, "quiet until 06:00"))
    here.turn()
    paused.kill()
    paused.start()
    here.run()
    assert here.trained()["pi-0"] >= 3


def test_a_run_whose_rounds_all_abort_waits_longer_and_goes_on(house: Make) -> None:
    """A network that is away for a night ends nothing."""
    here = house(algorithm="erk", rounds=2)
    for place in range(2):
        here.join(f"pi-{place}", takes=lambda o: 1e9 if o.round_no < 8 else 5.0)
    here.run(200_000.0)
    ledger = here.coordinator.ledger
    assert sum(r.phase.value == "aborted" for r in ledger.rounds()) == 7
    assert set(here.trained().values()) == {2}


def test_a_run_ends_where_everybody_has_said_that_it_cannot(house: Make) -> None:
    here = house(algorithm="erk", rounds=2)
    for place in range(2):
        here.join(f"pi-{place}", cannot="no kernel", lasting=True)
    with pytest.raises(RunError, match="pi-0: no kernel; pi-1: no kernel"):
        here.run()


def says(here: House, name: str, answer: Answer) -> Callable[[Message], None]:
    """A device that is a script: says what a test wants, answers tasks by a function.

    It is of a life with one number, and counts what it says.
    """
    seq = itertools.count(1)

    def say(message: Message) -> None:
        head = Header(tag_of(message), "home", name, "coordinator", 1, next(seq), 7)
        topic = topics.upload("home", name, 0, data=False)
        link.publish(topic, encode(head, message))

    def take(packet: ReceivedMessage) -> None:
        message = decode(packet.payload).message
        if isinstance(message, TaskOrder):
            said = answer(message)
            if said is not None:
                say(said)

    link = here.broker.connect(take, lambda _: None)
    link.subscribe(topics.inbox("home", name))
    return say


def hello(examples: int, board: str = "raspberry_pi_4b_4gb") -> Hello:
    profile = msgspec.to_builtins(load_board(board))
    own = "idle", None, "1", "digits", examples, profile
    return Hello(*own, ["fp32"], ["masked"], 1000)


@pytest.mark.parametrize("devices", [2, 3])
def test_who_fails_and_says_something_else_each_time_aborts_no_round(
    house: Make, devices: int
) -> None:
    here = house(algorithm="erk", rounds=6, wait_for=devices)
    say = says(here, "px", lambda order: Fail(order.id, "full"))
    for place in range(devices - 1):
        here.join(f"pi-{place}")
    examples = itertools.cycle(range(90, 97))

    def changes() -> bool:
        say(hello(next(examples)))
        return here.coordinator.done

    here.until(changes)
    ledger = here.coordinator.ledger
    assert [r.phase.value for r in ledger.rounds()] == ["done"] * 6
    assert [r.goal for r in ledger.rounds()][2:] == [devices - 1] * 4
    assert set(here.trained().values()) == {6}
    assert ledger.standing()["px"]["why"] == "failed 6 times in a row: full"


def test_who_pauses_for_ever_keeps_no_run_from_its_beginning(house: Make) -> None:
    here = house(algorithm="erk", rounds=2, wait_for=2)
    say = says(here, "px", lambda _: None)
    pause = Wait(7 * 24 * 3600 * 1000, "quiet until doomsday")
    say(hello(100))
    say(pause)
    here.turn()
    assert here.coordinator.server._phase == "waiting for 2 devices, 1 here"
    here.join("pi-0").kill()
    say(pause)
    here.turn()
    here.devices["pi-0"].start()
    here.run()
    assert set(here.trained().values()) == {2}
    (row,) = (d for d in here.coordinator.ledger.devices() if d.name == "px")
    assert row.note == "quiet until doomsday"


def test_where_all_pause_the_run_says_who(house: Make) -> None:
    here = house(algorithm="erk", rounds=2, wait_for=1)
    say = says(here, "px", lambda _: None)
    say(hello(100))
    say(Wait(3_600_000, "hot"))
    here.turn()
    assert here.coordinator.server._phase == "waiting for devices; they pause: px"


@pytest.mark.parametrize("stale", [0, 1000])
def test_rounds_far_slower_than_the_profiles_are_waited_for_not_aborted(
    house: Make, stale: int
) -> None:
    """Also where the first word of a round still says how far the last one was."""
    here = house(algorithm="erk", rounds=4, wait_for=3)
    for place in range(3):
        here.join(f"pi-{place}", takes=lambda _: 200.0)

    for device in here.devices.values():
        device.work.first_progress = stale
    here.run()
    phases = [r.phase.value for r in here.coordinator.ledger.rounds()]
    assert phases == ["done"] * 4, here.state()


def test_devices_that_are_slow_are_in_as_many_models_where_cohorts_are_fair(
    house: Make,
) -> None:
    """A random round is over with its first updates, which are never theirs."""
    slow, counted = ("pi-4", "pi-5"), {}
    for selection in ("random", "fair"):
        settings = {"selection": selection, "algorithm": "erk"}
        here = house(cohort=3, wait_for=6, rounds=8, **settings)
        for place in range(6):
            name = f"pi-{place}"
            here.join(name, takes=lambda _, s=9.0 if name in slow else 1.0: s)
        here.run()
        parts = here.coordinator.ledger.parts()
        counted[selection] = {
            d: parts.get(d, {}).get("trained", 0) for d in here.devices
        }
    assert set(counted["fair"].values()) == {4}
    assert sum(counted["random"][d] for d in slow) < 8


def away(here: House) -> Callable[[], None]:
    """The coordinator's link is lost; returns what brings the next one."""
    link = here.coordinator.server._transport
    here.broker.leave(link, will=None)  # type: ignore[arg-type]
    link.on_link(False)  # type: ignore[attr-defined]

    def back() -> None:
        here.broker._links.append(link)  # type: ignore[arg-type]
        link.on_link(True)  # type: ignore[attr-defined]

    return back


@pytest.mark.parametrize("cannot", ["", "its camera is gone"])
def test_what_a_device_said_while_the_coordinator_was_away_is_said_again_at_once(
    house: Make, cannot: str
) -> None:
    """A broker drops what is sent to a client that is away: both links are cut."""
    here = house(algorithm="erk", rounds=2)
    for place in range(2):
        here.join(f"pi-{place}", takes=lambda _: 6.0, cannot=cannot)
    here.until(lambda: all(busy(d) for d in here.devices.values()))
    back = away(here)
    for device in here.devices.values():
        device.wire.cut()
    here.turn()
    here.turn()  # they have trained
    for device in here.devices.values():
        device.wire.mend()
        device.turn()
    ledger = here.coordinator.ledger
    assert [task.phase.value for task in ledger.tasks(1)] == ["acked"] * 2
    back()
    for _ in range(3):
        here.turn(0.0)  # no time passes: nobody is asked again for being silent
    ends = {task.phase.value for task in ledger.tasks(1)}
    assert ends == {"failed" if cannot else "accepted"}


def test_a_device_that_came_while_the_coordinator_was_away_is_let_in_at_once(
    house: Make,
) -> None:
    here = house(algorithm="erk", rounds=1, wait_for=3)
    for place in range(2):
        here.join(f"pi-{place}")
    here.turn()
    back = away(here)
    here.join("pi-2")
    here.turn(0.0)
    assert "pi-2" not in here.coordinator.server._fleet.joined()
    back()
    here.turn(0.0)
    assert "pi-2" in here.coordinator.server._fleet.joined()


@pytest.mark.parametrize(("lost", "topic"), [("/m/", "m/#"), ("/dat", "up/0/dat")])
def test_chunks_that_a_broker_drops_without_a_word_are_named_within_a_minute(
    house: Make, lost: str, topic: str, caplog: pytest.LogCaptureFixture
) -> None:
    """An access list takes them and lets nobody have them."""
    here = house(algorithm="erk", rounds=1)
    route = here.broker.route

    def narrow(where: str, payload: bytes, *, retain: bool) -> None:
        if lost not in where:
            route(where, payload, retain=retain)

    here.broker.route = narrow  # type: ignore[method-assign]
    for place in range(2):
        here.join(f"pi-{place}")
    here.until(lambda: all(busy(d) for d in here.devices.values()))
    for _ in range(12):
        here.turn()
    said = [m for m in caplog.messages if "access list drops it" in m]
    assert len(said) == 2  # once on each device
    assert all(topic in line for line in said)


def test_a_transfer_that_goes_on_and_a_link_that_is_down_are_no_standstill() -> None:
    watch, fetch = TransferWatch("pi-1", "home"), SessionPhase.FETCH
    for chunk in range(9):  # one every half a minute
        watch, said = watch.look(30.0 * chunk, fetch, chunk, 0)
        assert said == ""
    watch, said = watch.connected().look(5000.0, fetch, 8, 0)
    assert said == ""
    assert watch.look(5000.0 + STUCK_S, fetch, 8, 0)[1] != ""
    upload = SessionPhase.UPLOAD  # in a queue: not asked for anything
    watch, _ = watch.look(6000.0, upload, 8, 0)
    assert watch.look(7000.0, upload, 8, 0)[1] == ""
    assert STUCK_S + 10.0 < 60.0  # it is looked at each five seconds
