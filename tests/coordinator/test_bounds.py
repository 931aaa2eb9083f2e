"""What a device says of itself in numbers: bounded at the door, whatever they are."""

from __future__ import annotations

import math
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from databases import opened
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from coordinator.algorithms import ALGORITHMS
from coordinator.ledger import open_ledger
from coordinator.rounds.deadlines import LONGEST_S
from coordinator.server.global_model import GlobalModel
from coordinator.server.loop import Server
from coordinator.settings import RunSettings, TrainingSettings
from device_profiles import ProfileError, load_board, parse_profile
from device_profiles.schema import LEAST_RATE
from edge_sdk.errors import StateError
from edge_sdk.tasks.task import Examples, load_task
from edge_sdk.transport.memory import MemoryBroker, MemoryTransport
from edge_sdk.wire import topics
from edge_sdk.wire.blob import manifest_of
from edge_sdk.wire.bounds import BOUNDS, METRICS, beyond
from edge_sdk.wire.codec import Header, decode, encode, pack, tag_of, unpack
from edge_sdk.wire.messages import (
    Data,
    DataDescribed,
    DataSummary,
    Evaluated,
    Fail,
    Hello,
    Message,
    Need,
    Offer,
    Receipt,
    Running,
    Status,
    TaskAck,
    TaskOrder,
    Wait,
)

BOARD: dict[str, Any] = msgspec.to_builtins(load_board("raspberry_pi_4b_4gb"))


def hello(**changes: Any) -> Hello:
    plain = Hello(
        phase="idle",
        task_id=None,
        version="1",
        task="digits",
        examples=700,
        profile=BOARD,
        codecs=["fp32"],
        engines=["masked"],
        free_disk_mib=1000,
    )
    return msgspec.structs.replace(plain, **changes)


SETTINGS = RunSettings(
    federation="home",
    task="digits",
    evaluation=Path("eval"),
    densities=[0.1, 0.4],
    rounds=2,
    wait_for=1,
    training=TrainingSettings(max_steps=3),
)


class Clock:
    now = 50.0

    def __call__(self) -> float:
        return self.now


class Room:
    """A coordinator on a broker in memory, and a link that speaks as any device."""

    def __init__(self, folder: Path, **changes: Any) -> None:
        task = load_task("digits")
        self.broker, self.clock = MemoryBroker(), Clock()
        self.ledger = open_ledger(folder)
        self.server = Server(
            msgspec.structs.replace(SETTINGS, **changes),
            task,
            Examples(np.zeros((8, 1, 8, 8), np.float32), np.zeros(8, np.int64)),
            self.ledger,
            self.broker.connect,
            clock=self.clock,
        )
        self.heard: list[tuple[str, Message]] = []
        self.link: MemoryTransport = self.broker.connect(self._hear, lambda _up: None)
        self.link.subscribe("fl/1/home/d/+/in")
        self.server._global_model.load()
        self._seq = 0

    def _hear(self, delivery: Any) -> None:
        device = delivery.topic.split("/")[4]
        self.heard.append((device, decode(delivery.payload).message))

    def say(self, device: str, message: Message) -> None:
        self._seq += 1
        status = isinstance(message, Status)
        topic = (
            topics.status("home", device)
            if status
            else topics.upload("home", device, 0, data=isinstance(message, Data))
        )
        header = Header(
            *(tag_of(message), "home", device, "coordinator", 0, self._seq), boot=1
        )
        self.link.publish(topic, encode(header, message))

    def turn(self) -> None:
        """What the loop does between two looks at the inbox."""
        self.server._take(0.0)
        self.server._go_on()
        self.server._view.draw("")
        self.server._take(0.0)

    def told(self, device: str, kind: type) -> list[Any]:
        return [m for d, m in self.heard if d == device and isinstance(m, kind)]

    def close(self) -> None:
        self.server.close()
        self.ledger.close()


@contextmanager
def room(**changes: Any) -> Iterator[Room]:
    """A room in a folder of its own: hypothesis asks for many in one test."""
    folder = Path(tempfile.mkdtemp())
    made = Room(folder / "run", **changes)
    try:
        yield made
    finally:
        made.close()
        shutil.rmtree(folder)


WILD = st.one_of(
    st.integers(0, 2**64 - 1),
    st.sampled_from([0, 1, 2**31, 2**32, 2**53, 2**63 - 1, 2**63, 2**64 - 1, 10**10]),
)
FLOATS = st.one_of(
    st.floats(),
    st.sampled_from([0.0, -0.0, 5e-324, 1e-300, 1e-5, 1e308, math.inf, math.nan]),
)
NUMBERS = st.one_of(WILD, FLOATS)
_TOP = st.sampled_from([k for k, v in BOARD.items() if isinstance(v, int | float)])
_CAPS = st.sampled_from(
    ["ram_mib", "cpu_share", "bytes_per_round", "joules_per_round", "bytes_per_day"]
)
PROFILES = st.builds(
    lambda top, caps: {**BOARD, **top, "caps": caps},
    st.dictionaries(_TOP, NUMBERS, max_size=3),
    st.dictionaries(_CAPS, NUMBERS, max_size=2),
)
HELLOS = st.builds(
    hello,
    examples=WILD,
    free_disk_mib=st.one_of(st.just(1000), WILD),
    profile=st.one_of(st.just(BOARD), PROFILES),
)
STATUSES = st.builds(
    Status,
    online=st.booleans(),
    phase=st.just("idle"),
    round_no=WILD,
    sent=WILD,
    received=WILD,
    rss_mib=WILD,
)
TASK = "TASK"  # stands for the id of the task that the device has, if it has one
OFFERS = st.builds(
    Offer,
    task_id=st.just(TASK),
    manifest=st.binary(min_size=1, max_size=9).map(manifest_of),
    mask_digest=st.just(bytes(32)),
    codec=st.just("fp32"),
    examples=WILD,
    norm=st.floats(min_value=0),
    metrics=st.dictionaries(
        st.sampled_from(["steps", "training_s", "peak_mib", "loss", "x"]), FLOATS
    ),
)
OTHERS = st.one_of(
    st.builds(Wait, ms=WILD, why=st.just("quiet")),
    st.builds(
        Need,
        blob=st.just("0" * 64),
        ranges=st.lists(st.tuples(WILD, WILD), max_size=3),
        credit=WILD.filter(bool),
    ),
    st.builds(Data, task_id=st.just(TASK), index=WILD, chunk=st.just(b"x")),
    st.builds(Running, live=st.none(), label=st.just("m"), no=WILD),
    st.builds(
        Evaluated,
        id=st.just(TASK),
        model=st.just(b"m" * 32),
        examples=WILD,
        sums=st.just({"loss": [1e308, 1.0]}),
    ),
    st.builds(
        DataDescribed,
        id=st.just("statistics"),
        data=st.builds(DataSummary, examples=WILD, values=WILD, mean=st.just([1.0])),
    ),
    st.builds(TaskAck, task_id=st.just(TASK)),
    st.builds(Fail, task_id=st.just(TASK), why=st.just("no")),
)
MESSAGES = st.one_of(HELLOS, STATUSES, OFFERS, OTHERS)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(said=st.lists(st.tuples(MESSAGES, st.floats(0, 1e5)), min_size=1, max_size=4))
def test_whatever_a_device_says_the_coordinator_stays_and_deadlines_are_finite(
    said: list[tuple[Message, float]],
) -> None:
    """No exception leaves the loop; an honest device is let in afterwards."""
    with room(algorithm="erk") as here:
        here.say("other", hello())  # without any, nobody can take part
        here.say("liar", hello())
        here.turn()
        for message, passes in said:
            orders = here.told("liar", TaskOrder)
            if getattr(message, "task_id", None) == TASK:
                task_id = orders[-1].id if orders else "1-a"
                here.say("liar", msgspec.structs.replace(message, task_id=task_id))
            else:
                here.say("liar", message)
            here.clock.now += passes
            here.turn()
            deadline = here.server._controller.timing.deadline
            assert deadline is None or deadline <= here.clock.now + LONGEST_S
        for order in here.told("liar", TaskOrder):
            assert unpack(pack(order), TaskOrder).ttl_ms <= 1000 * LONGEST_S
        here.say("honest", hello())
        here.turn()
        assert "honest" in here.server._fleet.present()


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"examples": 10**10}, "examples = 10000000000 is impossible: the most is 1e"),
        ({"free_disk_mib": 2**63}, "free_disk_mib = 9223372036854775808 is impos"),
        ({"profile": {**BOARD, "ram_mib": 2**62}}, "ram_mib: Expected `int` <= 167"),
        ({"profile": {**BOARD, "train_gflops": 1e-300}}, "train_gflops: Expected"),
        ({"profile": {**BOARD, "uplink_mbit_s": 1e-9}}, "uplink_mbit_s: Expected"),
        ({"profile": {**BOARD, "caps": {"cpu_share": 1e-12}}}, "caps.cpu_share: Exp"),
        ({"profile": {**BOARD, "caps": {"bytes_per_day": 2**63}}}, "bytes_per_day"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_hello_that_cannot_be_true_is_refused_to_its_device_with_the_remedy(
    changes: dict[str, Any], why: str
) -> None:
    with room() as here:
        here.say("liar", hello(**changes))
        here.turn()
        assert here.server._controller.round is None
        (wait,) = here.told("liar", Wait)
        assert why in wait.why
        assert "Correct" in wait.why or "profile" in wait.why
        (row,) = here.ledger.refused()
        assert (row.device, row.verdict) == ("liar", "turned-away")
        assert why in row.why


@pytest.mark.parametrize(
    "message",
    [
        Status(online=True, phase="idle", sent=2**63),
        Status(online=True, phase="idle", rss_mib=2**40),
        Wait(2**63, "quiet"),
        Running(live=None, label="m", no=2**63),
        Need("0" * 64, [(0, 1)], 2**63),
        Data("1-a", 2**63, b"x"),
    ],
    ids=lambda m: type(m).__name__,
)
def test_other_numbers_that_cannot_be_are_counted_by_name_and_answered_once(
    message: Message,
) -> None:
    with room(wait_for=2) as here:
        here.say("liar", hello())
        here.turn()
        before = len(here.told("liar", Wait))
        for _ in range(3):
            here.say("liar", message)
        here.turn()
        (row,) = here.ledger.refused()
        assert (row.device, row.verdict, row.count) == ("liar", "malformed", 3)
        assert "is impossible" in row.why
        (answer,) = here.told("liar", Wait)[before:]
        assert "is impossible" in answer.why
        assert "update flash-edge" in answer.why


SLOW = {
    **BOARD,
    **dict.fromkeys(
        ("train_gflops", "memory_gb_s", "uplink_mbit_s", "downlink_mbit_s"), LEAST_RATE
    ),
    "caps": {"cpu_share": 1e-3},
    "ram_mib": 1 << 24,
    "disk_free_mib": 1 << 24,
}


def test_the_slowest_board_with_the_most_examples_has_a_day_at_most() -> None:
    for algorithm in ("flash-edge", "erk"):
        with room(algorithm=algorithm, round_budget_s=1e300) as here:
            here.say("slow", hello(examples=10**8, profile=SLOW))
            here.turn()
            assert here.server._controller.left_s() <= LONGEST_S
            for order in here.told("slow", TaskOrder):
                assert unpack(pack(order), TaskOrder) == order


def test_a_ledger_that_holds_a_deadline_of_thousands_of_years_is_picked_up(
    tmp_path: Path,
) -> None:
    """As a coordinator without these bounds left it."""
    first = Room(tmp_path / "run", algorithm="erk")
    first.say("pi", hello())
    first.turn()
    (order,) = first.told("pi", TaskOrder)
    first.close()
    absurd = msgspec.structs.replace(order, ttl_ms=900_000_000_000_000)
    with opened(tmp_path / "run" / "ledger.sqlite") as db:
        db.execute("UPDATE tasks SET order_bytes = ?", (pack(absurd),))
        db.execute("UPDATE devices SET examples = ?", (2**62,))
    db.close()
    again = Room(tmp_path / "run", algorithm="erk")
    again.server._controller.reopen(again.ledger.rounds()[-1])
    again.turn()
    assert again.server._controller.round is not None
    assert again.server._controller.left_s() <= LONGEST_S
    again.say("pi", hello())
    again.turn()
    assert again.told("pi", TaskOrder)
    again.close()


def test_a_run_whose_checkpoint_has_a_flipped_bit_is_not_resumed(
    tmp_path: Path,
) -> None:
    """Nor silently: the file and what to do are named; restored, it goes on."""
    first = Room(tmp_path / "run", algorithm="erk")
    first.say("pi", hello())
    first.turn()
    first.close()
    (path,) = (tmp_path / "run" / "checkpoints").glob("round-*.safetensors")
    whole = path.read_bytes()
    changed = bytearray(whole)
    changed[-1] ^= 0x80  # a sign
    path.write_bytes(changed)
    ledger = open_ledger(tmp_path / "run")
    task = load_task("digits")
    with closing(ledger):
        global_model = GlobalModel(SETTINGS, task, ALGORITHMS["erk"], ledger)
        with pytest.raises(StateError, match="is not what the ledger says"):
            global_model.load()
        path.write_bytes(whole)
        global_model.load()
        assert global_model.model is not None


def test_an_offer_that_cannot_be_true_is_rejected_and_its_task_is_over() -> None:
    with room(algorithm="erk") as here:
        here.say("liar", hello())
        here.turn()
        (order,) = here.told("liar", TaskOrder)
        offer = Offer(
            *(order.id, manifest_of(b"x"), order.mask.digest, "fp32", 2**60, 1.0),
            metrics={"loss": 1.0},
        )
        here.say("liar", offer)
        here.turn()
        (receipt,) = here.told("liar", Receipt)
        assert receipt.verdict == "rejected"
        assert "examples = 1152921504606846976 is impossible" in receipt.why


def test_every_number_that_a_device_says_is_in_the_table() -> None:
    """A field added to a message of theirs has to say what it can be."""
    own = {Hello, Offer, Status, Wait, Need, Data, Running, TaskAck, Fail, Evaluated}
    for kind in own:
        for field in msgspec.inspect.type_info(kind).fields:  # type: ignore[union-attr]
            number = isinstance(
                field.type, msgspec.inspect.IntType | msgspec.inspect.FloatType
            )
            if number and field.type.le is None and field.type.lt is None:
                assert field.name in BOUNDS[kind], (kind, field.name)


@given(value=NUMBERS)
def test_a_number_passes_exactly_within_its_bounds(value: float) -> None:
    for kind, fields in BOUNDS.items():
        for name, bound in fields.items():
            inside = math.isfinite(value) and 0 <= value <= bound.most
            assert bound.holds(value) == inside, (kind, name)
    assert all(not bound.holds(math.nan) for bound in METRICS.values())


def test_what_every_shipped_board_says_passes() -> None:
    for name in ("raspberry_pi_4b_4gb", "jetson_orin_nano", "raspberry_pi_zero_2_w"):
        profile = msgspec.to_builtins(load_board(name))
        assert parse_profile(profile, file=name)
        assert beyond(hello(profile=profile)) == ""
    with pytest.raises(ProfileError):
        parse_profile({**BOARD, "memory_gb_s": 1e-6}, file="x")


LEAN = {"engines": ["program"]}
AWAY: dict[str, tuple[dict[str, Any], str]] = {
    "no program of this model": (LEAN, "it has no torch, and this model no program"),
    "another task": ({"task": "mine:task"}, "this run trains digits, not mine:task"),
    "an impossible number": ({"examples": 10**10}, "is impossible"),
    "no profile": ({"profile": {**BOARD, "ram_mib": "much"}}, "ram_mib"),
}


@pytest.mark.parametrize("name", AWAY)
def test_who_is_turned_away_gets_no_order_and_the_others_train_on(name: str) -> None:
    changes, why = AWAY[name]
    with room(wait_for=2, algorithm="erk") as here:
        here.server._fleet.program.why_not = "its control flow depends on values."
        for device in ("first", "other"):
            here.say(device, hello())
            here.say(device, Status(online=True, phase="idle"))
        here.say("strange", hello(**changes))
        here.turn()
        assert {"first", "other"} == here.server._fleet.present()
        assert why in here.told("strange", Wait)[-1].why
        assert not here.told("strange", TaskOrder)
        before = here.told("first", TaskOrder)[-1]
        here.say("first", hello(task_id=before.id, **changes))  # it comes back so
        here.turn()
        here.clock.now += 20.0
        assert "first" not in here.server._fleet.present()
        assert why in here.told("first", Wait)[-1].why
        (row,) = [r for r in here.ledger.tasks(1) if r.device == "first"]
        assert row.phase == "failed"
        here.say("first", hello())  # mended
        here.turn()
        assert "first" in here.server._fleet.present()
