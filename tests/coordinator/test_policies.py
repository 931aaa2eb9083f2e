"""Access rules for brokers of the operator's own: their text, and what it allows."""

from __future__ import annotations

import json
import queue
import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from brokers import mosquitto
from patience import patience
from typer.testing import CliRunner

from coordinator.broker.policies import POLICIES, policy_for
from coordinator.cli import app
from edge_sdk.transport.address import Address
from edge_sdk.transport.base import ReceivedMessage
from edge_sdk.transport.limits import PROFILES
from edge_sdk.transport.mqtt import MqttTransport
from edge_sdk.wire import topics

GOLDEN = Path(__file__).with_name("policies")
WAIT_S = patience(20.0)
RUN = (
    'federation = "home"\ntask = "digits"\nevaluation = "x"\ndensities = [0.5]\n'
    "rounds = 1\n"
)
# How each kind writes the name of the client that asks.
NAMES = {
    "mosquitto": "%u",
    "aws-iot": "${iot:Connection.Thing.ThingName}",
    "event-grid": "${client.authenticationName}",
    "emqx": "${username}",
    "hivemq": "${{username}}",
    "cloudflare": "${message.clientId}",
}


def test_every_profile_has_its_rules() -> None:
    assert set(POLICIES) == set(PROFILES) == set(NAMES)


@pytest.mark.parametrize("kind", [*POLICIES])
def test_the_rules_are_those_of_the_golden_file(kind: str) -> None:
    golden = (GOLDEN / f"{kind}.txt").read_text(encoding="utf-8")
    assert policy_for(kind, "home") == golden


@pytest.mark.parametrize("kind", [*POLICIES])
def test_each_topic_that_a_device_writes_is_allowed_and_no_other(kind: str) -> None:
    text = policy_for(kind, "home")
    writes = (
        *(topics.upload("home", "pi-1", 0, data=data) for data in (False, True)),
        topics.status("home", "pi-1"),
    )
    named = text.replace(NAMES[kind], "pi-1")
    assert all(topic in named for topic in writes)
    found = set(re.findall(r"fl/1/home/d/[^/\s\"'`,<]+(?:/[a-z0-9]+)+", named))
    assert found == {*writes, topics.inbox("home", "pi-1")} - (
        {topics.inbox("home", "pi-1")} if kind == "cloudflare" else set()
    )


def test_what_a_program_reads_can_be_read() -> None:
    both = json.loads(policy_for("aws-iot", "home"))
    device = both["flash-edge-home-device"]["Statement"]
    assert {s["Effect"] for s in device} == {"Allow"}
    assert len(json.dumps(device, separators=(",", ":"))) < 2048  # IoT Core's limit
    roles = ET.fromstring(policy_for("hivemq", "home")).findall("roles/role/id")  # noqa: S314
    assert [role.text for role in roles] == ["device", "coordinator"]


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[Address]:
    """mosquitto that keeps to the printed rules; user names without passwords."""
    (tmp_path / "acl").write_text(policy_for("mosquitto", "home"), encoding="utf-8")
    with mosquitto(
        tmp_path, "allow_anonymous true", f"acl_file {tmp_path / 'acl'}"
    ) as there:
        yield there


@pytest.mark.broker
def test_mosquitto_with_the_printed_rules_passes_a_device_and_nobody_else(
    guarded: Address,
) -> None:
    def connect(name: str) -> tuple[MqttTransport, queue.Queue[ReceivedMessage]]:
        got: queue.Queue[ReceivedMessage] = queue.Queue()
        there = Address(guarded.host, guarded.port, username=name)
        link = MqttTransport(there, name, got.put, lambda _: None, wait_s=WAIT_S)
        return link, got

    coordinator, heard = connect("coordinator")
    device, told = connect("pi-1")
    other, overheard = connect("pi-2")
    with closing(coordinator), closing(device), closing(other):
        coordinator.subscribe("fl/1/home/#")
        coordinator.publish(topics.announcement("home"), b"here")
        assert heard.get(timeout=WAIT_S).payload == b"here"  # it is subscribed
        device.subscribe(topics.inbox("home", "pi-1"))
        other.subscribe(topics.inbox("home", "pi-1"))
        upload = topics.upload("home", "pi-1", 0, data=False)
        other.publish(upload, b"forged")
        other.publish(topics.upload("home", "pi-2", 0, data=False), b"own")
        assert heard.get(timeout=WAIT_S).payload == b"own"
        device.publish(upload, b"hello")
        assert heard.get(timeout=WAIT_S).payload == b"hello"
        coordinator.publish(topics.inbox("home", "pi-1"), b"order")
        assert told.get(timeout=WAIT_S).payload == b"order"
        assert overheard.empty()


def test_the_command_prints_the_runs_own_kind_and_names_those_there_are(
    tmp_path: Path,
) -> None:
    ask = CliRunner().invoke
    (tmp_path / "run.toml").write_text(
        RUN + 'broker = "mqtts://a1-ats.iot.eu-west-1.amazonaws.com:8883"\n'
    )
    said = ask(app, ["policy", str(tmp_path)])
    assert said.exit_code == 0
    assert said.stdout.strip() == policy_for("aws-iot", "home").strip()
    said = ask(app, ["policy", str(tmp_path), "--for", "emqx", "--json"])
    assert json.loads(said.stdout)["for"] == "emqx"
    said = ask(app, ["policy", str(tmp_path), "--for", "kafka"])
    assert said.exit_code != 0
