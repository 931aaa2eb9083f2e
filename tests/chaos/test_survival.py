"""What must survive, each by its name, between real processes."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from patience import patience

pytestmark = [pytest.mark.broker, pytest.mark.slow]

Make = Callable[..., Any]


@pytest.fixture
def make(zygote: Any, tmp_path: Path) -> Iterator[Make]:
    """Starts federations; what they leave is sound, or the test fails."""
    from chaos.fleet import Fleet

    made: list[Any] = []

    def start(
        broker: str = "mosquitto",
        *,
        rounds: int = 3,
        once: dict[str, Any] | None = None,
        **named: Any,
    ) -> Any:
        folder = tmp_path / f"fleet-{len(made)}"
        fleet = Fleet(folder, broker, zygote, rounds=rounds, **named)
        made.append(fleet)
        fleet.once |= once or {}
        fleet.start()
        return fleet

    yield start
    for one in made:
        one.close()


def ends_well(fleet: Any) -> None:
    fleet.wait_end(90)
    assert fleet.verdict() == [], fleet.logs()


def in_round(fleet: Any, no: int) -> None:
    fleet.wait(lambda: fleet.round_now() >= no, f"round {no}")


def in_phase(fleet: Any, device: str, phase: str) -> None:
    fleet.wait(lambda: f": {phase}" in fleet.said(device), f"{device} {phase}")


# -- the broker ------------------------------------------------------------------------


def test_a_broker_that_restarts_with_everything_lost(make: Make) -> None:
    fleet = make()
    in_round(fleet, 1)
    fleet.kill_broker()
    in_round(fleet, 2)
    fleet.kill_broker(again_after_s=1.0)
    ends_well(fleet)


def test_a_broker_that_drops_silently(make: Make) -> None:
    """It queues two messages for a client, acknowledges all, and drops the rest."""
    fleet = make("mosquitto-two", devices=5)
    for gate in fleet.gates.values():
        gate.weather.latency_s = 0.02  # queues fill only if somebody is slow
    ends_well(fleet)


def test_a_stampede_of_reconnects(make: Make) -> None:
    fleet = make(devices=10)
    for no in (1, 2):
        in_round(fleet, no)
        for gate in fleet.gates.values():
            gate.sever()
    ends_well(fleet)


def test_an_oversize_packet(make: Make) -> None:
    """Two megabytes where a packet has 96 KiB at most: dropped, and nobody dies."""
    import paho.mqtt.client as paho
    from paho.mqtt.enums import CallbackAPIVersion

    fleet = make()
    in_round(fleet, 1)
    stranger = paho.Client(CallbackAPIVersion.VERSION2, client_id="stranger")
    stranger.connect("127.0.0.1", fleet.broker.port)
    stranger.loop_start()
    for topic in ("dev-1/up/0/ctl", "dev-1/up/0/dat", "dev-1/in"):
        sent = stranger.publish(f"fl/1/chaos/d/{topic}", bytes(2_000_000), qos=1)
        sent.wait_for_publish(patience(20))
        assert sent.is_published()
    stranger.disconnect()
    stranger.loop_stop()
    ends_well(fleet)
    assert set(fleet.starts.values()) == {1}


# -- the coordinator -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("where", "nth", "when"),
    [
        (r"^commit .*(server\.loop\._take|\.freeze)", 2, "before"),
        (r"^commit .*(server\.loop\._take|\.freeze)", 2, "after"),
        (r"^replace .*coordinator\.checkpoints\.models", 2, "before"),
        (r"^commit .*\.issue_tasks", 2, "after"),
        (r"^commit .*server\.loop\._go_on", 1, "before"),
    ],
    ids=[
        "before-commit",
        "after-commit-before-receipt",
        "while-closing",
        "just-after-closing",
        "before-the-last-end",
    ],
)
def test_a_coordinator_killed(make: Make, where: str, nth: int, when: str) -> None:
    from chaos.fleet import COORDINATOR

    death = {"die_where": where, "die_at": nth, "die": when}
    fleet = make(rounds=2, once={COORDINATOR: death})
    ends_well(fleet)
    assert fleet.starts[COORDINATOR] == 2, "it did not die there"


def test_a_second_coordinator_of_the_same_folder_is_refused(make: Make) -> None:
    fleet = make()
    in_round(fleet, 1)
    fleet.signal("coordinator", signal.SIGSTOP)  # a zombie holds its lock, too
    log = fleet.folder / "second.log"
    pid = fleet.zygote.spawn(
        module="coordinator.cli",
        arguments=["resume", str(fleet.run)],
        cwd=str(fleet.run),
        log=str(log),
        child={},
    )
    fleet.wait(lambda: fleet.zygote.poll(pid) is not None, "its refusal")
    fleet.signal("coordinator", signal.SIGCONT)
    assert "another coordinator runs in" in log.read_text()
    ends_well(fleet)


@pytest.mark.parametrize("broker", ["mosquitto", "rabbitmq"])
def test_a_coordinator_that_comes_back_finds_one_on_a_copy_of_its_folder_and_ends(
    make: Make, broker: str
) -> None:
    """A machine hung, and a copy of its disk took over: two ledgers, no common lock."""
    from chaos.brokers import missing

    if missing(broker):
        pytest.skip(missing(broker))
    fleet = make(broker, rounds=4)
    fleet.wait(lambda: any(u["round"] == 1 for u in fleet.rows("updates")), "an update")
    fleet.signal("coordinator", signal.SIGSTOP)
    old = fleet.run
    zombie = fleet.copy_run()
    in_round(fleet, 2)
    os.kill(zombie, signal.SIGCONT)
    fleet.wait(lambda: fleet.zygote.poll(zombie) is not None, "the end of the older")
    said = (fleet.folder / "zombie.log").read_text()
    assert "another coordinator has taken over chaos" in said
    assert "Stop one of the two: devices follow only the newer one" in said
    ends_well(fleet)
    assert fleet.starts["coordinator"] == 2  # the newer one did not yield
    newer = {u["task"]: u["blob"] for u in fleet.rows("updates")}
    fleet.run = old  # what the older one believed was counted, was
    assert {
        u["task"]: u["blob"] for u in fleet.rows("updates")
    }.items() <= newer.items()


# -- the devices -----------------------------------------------------------------------


@pytest.mark.parametrize("phase", ["fetching", "training", "uploading"])
def test_a_device_killed_while(make: Make, phase: str) -> None:
    fleet = make()
    gate = fleet.gates["dev-2"]
    gate.weather.latency_s = 0.2 if phase == "fetching" else 0.0
    in_phase(fleet, "dev-2", f"{phase} round 1")
    if phase == "uploading":
        gate.weather.hold_up = True
    fleet.kill("dev-2")
    gate.weather.hold_up, gate.weather.latency_s = False, 0.0
    ends_well(fleet)
    assert fleet.starts["dev-2"] == 2


def test_a_device_killed_in_local_training_goes_on_from_its_last_step(
    make: Make,
) -> None:
    """And nobody can tell: its update and the model are those of a quiet run."""
    after_two = {
        "die_where": r"^replace .*training\.checkpoint\.keep",
        "die_at": 2,
        "die": "after",
    }
    hurt = make(rounds=1, options={"keep_steps": True}, once={"dev-2": after_two})
    ends_well(hurt)
    assert hurt.starts["dev-2"] == 2
    said = hurt.said("dev-2")
    assert said.count("training continues after step 2") == 1
    assert said.count("training continues") == 1
    quiet = make(rounds=1)
    ends_well(quiet)
    assert _update(hurt, "dev-2") == _update(quiet, "dev-2")
    assert hurt.digest() == quiet.digest()


def _update(fleet: Any, device: str) -> dict[str, Any]:
    """What the ledger holds of a device's part in round 1."""
    row = next(
        u for u in fleet.rows("updates") if (u["round"], u["device"]) == (1, device)
    )
    return {name: row[name] for name in ("blob", "examples", "norm")}


def test_a_zombie_device_comes_back_too_late(make: Make) -> None:
    """Its update arrives after its round was closed: told so, and not counted."""
    fleet = make(rounds=4)
    weather = fleet.gates["dev-3"].weather
    # It trains in less than it takes to see that it does; its update has three ways
    # to go before it counts, each so long. More would break a link's three seconds.
    weather.latency_s = 0.5
    in_phase(fleet, "dev-3", "training round 1")
    weather.hold_up, weather.latency_s = True, 0.0
    in_round(fleet, 2)
    weather.hold_up = False
    ends_well(fleet)
    members = {u["device"] for u in fleet.rows("updates") if u["round"] == 1}
    assert "dev-3" not in members


def test_the_same_task_id_with_other_content(make: Make) -> None:
    from edge_sdk.transport.address import parse_url
    from edge_sdk.transport.mqtt import MqttTransport
    from edge_sdk.wire.blob import manifest_of
    from edge_sdk.wire.codec import Header, encode
    from edge_sdk.wire.messages import Offer

    fleet = make(rounds=4)
    fleet.wait(lambda: any(u["round"] == 1 for u in fleet.rows("updates")), "an update")
    row = next(u for u in fleet.rows("updates") if u["round"] == 1)
    offer = Offer(
        row["task"], manifest_of(b"another"), bytes(32), "fp32", 1, 1.0, {"loss": 0.1}
    )
    head = Header("offer", "chaos", row["device"], "coordinator", 1, 1, 7)
    url = parse_url(f"mqtt://127.0.0.1:{fleet.broker.port}")
    stranger = MqttTransport(
        url, "stranger", print, lambda _: None, wait_s=patience(10)
    )
    topic = f"fl/1/chaos/d/{row['device']}/up/0/ctl"
    stranger.publish(topic, encode(head, offer))
    fleet.wait(lambda: bool(fleet.rows("refusals")), "the refusal")
    stranger.close()
    ends_well(fleet)
    refused = fleet.rows("refusals")[0]
    assert (refused["device"], refused["verdict"]) == (row["device"], "equivocation")


# -- the world -------------------------------------------------------------------------


@pytest.mark.parametrize("who", ["coordinator", "dev-1"])
def test_a_half_open_partition(make: Make, who: str) -> None:
    """The broker has closed the connection and the other side was never told."""
    fleet = make()
    in_round(fleet, 1)
    fleet.gates[who].half_open()
    ends_well(fleet)


def test_clock_jumps_change_no_decision(make: Make) -> None:
    from chaos.kinds import PATIENT

    fleet = make(options={"waits": PATIENT})
    for no, days in ((0, -900), (1, 900), (2, -40), (3, 4000)):
        in_round(fleet, no)
        for name in fleet.names:
            fleet.set_clock(name, days * 86_400)
    ends_well(fleet)
    assert fleet.rows("rounds")[-1]["closed"] > "2030", "the clock did not jump"
    assert [r["phase"] for r in fleet.rows("rounds")] == ["done"] * 4
    assert set(fleet.starts.values()) == {1}


@pytest.mark.parametrize("who", ["coordinator", "dev-2"])
def test_a_full_disk(make: Make, who: str) -> None:
    from chaos.run import can_mount

    if not can_mount():
        pytest.skip("a small disk of its own needs root, to mount it")
    fleet = make(small_disks=True)
    in_round(fleet, 1)
    fleet.fill_disk(who)
    fleet.wait(lambda: fleet.starts[who] > 1, "the end of who has no room")
    said = fleet.said(who)
    fleet.free_disk(who)
    ends_well(fleet)
    assert "error: " in said
    assert "help: " in said
