"""A simulated fleet over a real broker: the same model, and its bytes on the wire."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import psutil
import pytest
from brokers import mosquitto
from killed_run import killed_in_round
from patience import patience, waited

from coordinator.broker.start import Broker, open_broker
from coordinator.checkpoints.models import model_name
from coordinator.settings import GateSettings, TrainingSettings
from coordinator.simulation.data.folders import places_of
from coordinator.simulation.mqtt import over_mqtt
from coordinator.simulation.record import RoundRecord, Wire, read_records
from coordinator.simulation.rounds import Simulation
from coordinator.simulation.settings import FleetGroup
from coordinator.simulation.workers.interface import Workers
from edge_sdk.datasets.partition import load_partition, save_partition
from edge_sdk.errors import RunError
from edge_sdk.tasks.task import Examples
from edge_sdk.terminal import Exit
from edge_sdk.transport.address import Address
from edge_sdk.transport.base import ReceivedMessage
from edge_sdk.transport.mqtt import MqttTransport

Make = Callable[..., Simulation]
WAIT_S = 120.0
pytestmark = pytest.mark.broker


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    folder = tmp_path_factory.mktemp("broker")
    with open_broker(None, folder, kind="mosquitto") as running:
        yield running


def plain(records: list[RoundRecord]) -> list[RoundRecord]:
    """Without what depends on this machine's mood."""
    return [msgspec.structs.replace(r, wall_s=0.0, wire=None) for r in records]


def play(simulation: Simulation, pool: Workers) -> list[RoundRecord]:
    while not simulation.done:
        simulation.step(pool)
    return simulation.journal.records


def play_over(
    simulation: Simulation,
    pool: Workers,
    folder: Path,
    url: str,
    before_last: Callable[[], None] = lambda: None,
    **more: Any,
) -> list[RoundRecord]:
    """Plays it to its end; `before_last` may hold the last round up."""
    settings, fleet = simulation.settings, simulation.fleet.devices
    opened = over_mqtt(
        folder,
        url,
        fleet,
        pool,
        task=settings.task,
        rounds=settings.rounds,
        **more,
    )
    with opened as way:
        while not simulation.done:
            if len(simulation.journal.records) == settings.rounds:
                before_last()
            simulation.step(pool, way)
    return simulation.journal.records


def models(folder: Path) -> list[bytes]:
    found = sorted((folder / "checkpoints").glob("*.safetensors"))
    return [path.read_bytes() for path in found]


def wires(records: list[RoundRecord]) -> list[Wire]:
    return [r.wire for r in records if r.wire is not None]


@pytest.mark.parametrize("name", ["flash", "feddst", "salientgrads"])
def test_eight_devices_over_mosquitto_end_with_the_model_of_none(
    make: Make, pool: Workers, tmp_path: Path, broker: Broker, name: str
) -> None:
    changes = {"devices": 8, "cohort": 5, "rounds": 3, "algorithm": name}
    without = play(make("without", **changes), pool)
    over = play_over(make("over", **changes), pool, tmp_path / "over", broker.url)
    assert plain(over) == plain(without)
    assert len(models(tmp_path / "over")) >= 3
    assert models(tmp_path / "over") == models(tmp_path / "without")


IN_FULL = GateSettings(clip=0, weight=0, influence=0)


@pytest.mark.parametrize(
    "changes",
    [
        {"algorithm": "flash"},
        {"algorithm": "salientgrads"},
        {"algorithm": "erk", "aggregate": "trimmed-mean"},
        {"algorithm": "erk", "gate": IN_FULL},
    ],
    ids=["mean", "saliency", "trimmed", "in-full"],
)
def test_very_unequal_devices_count_the_same_on_a_broker_and_without(
    make: Make,
    tmp_path: Path,
    cache: Path,
    pool: Workers,
    broker: Broker,
    changes: dict[str, Any],
) -> None:
    """One has every example and four have 20: in full, the one would be the model."""
    long = TrainingSettings(rate=0.2, rate_end=0.1, batch_size=8, max_steps=40)
    settings = make("first", devices=5, cohort=5, training=long, **changes).settings
    whole, evaluation = places_of(settings, cache=cache)
    folders = {name: tmp_path / "data" / name for name in whole}
    every = [load_partition(folder) for folder in whole.values()]
    inputs, targets = (
        np.concatenate([getattr(one, part) for one in every])
        for part in ("inputs", "targets")
    )
    for number, folder in enumerate(folders.values()):
        some = every[number].take(slice(20)) if number else Examples(inputs, targets)
        save_partition(folder, some)

    def made(name: str, **more: Any) -> Simulation:
        (tmp_path / name).mkdir()
        own = msgspec.structs.replace(settings, **more)
        return Simulation(tmp_path / name, own, folders, evaluation)

    without = play(made("without"), pool)
    over = play_over(made("over"), pool, tmp_path / "over", broker.url)
    assert plain(over) == plain(without)
    assert models(tmp_path / "over") == models(tmp_path / "without")
    if changes["algorithm"] == "flash":
        assert any("examples" in why for why in without[1].cut.values())
        play(made("in-full", gate=IN_FULL), pool)
        assert models(tmp_path / "in-full") != models(tmp_path / "without")


def test_the_bytes_on_the_wire_are_those_packed_and_the_rest_is_told(
    make: Make, pool: Workers, tmp_path: Path, broker: Broker
) -> None:
    over = play_over(
        make("over", devices=8, cohort=5, rounds=3),
        pool,
        tmp_path / "over",
        broker.url,
    )
    for record, wire in zip(over, wires(over), strict=True):
        assert wire.packed_up == record.bytes_up
        assert wire.packed_down == record.bytes_down
        assert wire.packed_up < wire.payload_up
        assert wire.packed_down < wire.payload_down
    payload = sum(w.payload_up for w in wires(over))
    stream = sum(w.stream_up for w in wires(over))
    assert payload < stream < 1.5 * payload
    assert sum(w.payload_down for w in wires(over)) < sum(
        w.stream_down for w in wires(over)
    )


def test_stragglers_boards_and_dropouts_are_those_of_the_run_without_a_broker(
    make: Make, pool: Workers, tmp_path: Path, broker: Broker
) -> None:
    changes: dict[str, Any] = {
        "devices": 8,
        "cohort": 3,
        "seed": 2,
        "algorithm": "flash-edge",
        "densities": [0.1, 0.4],
        "jitter": 0.3,
        "dropout": 0.5,
        "fleet": [
            FleetGroup(share=0.5, density=0.1, board="raspberry_pi_zero_2_w"),
            FleetGroup(share=0.5, density=0.4, board="jetson_orin_nano"),
        ],
    }
    without = play(make("without", **changes), pool)
    over = play_over(make("over", **changes), pool, tmp_path / "over", broker.url)
    assert plain(over) == plain(without)
    assert models(tmp_path / "over") == models(tmp_path / "without")
    assert any(r.note for r in over)
    assert any(r.asked > len(r.accepted) > 0 for r in over)


def test_a_broker_with_small_packets_is_given_small_chunks(
    make: Make, pool: Workers, tmp_path: Path
) -> None:
    """The model is the same; only lists of chunks are longer."""
    with mosquitto(
        tmp_path, "allow_anonymous true", "max_packet_size 12000"
    ) as address:
        without = play(make("without", densities=[0.4]), pool)
        over = play_over(
            make("over", densities=[0.4]), pool, tmp_path / "over", address.url
        )
    assert models(tmp_path / "over") == models(tmp_path / "without")
    assert over[1].bytes_down > without[1].bytes_down
    assert over[1].bytes_up > without[1].bytes_up


def test_a_broker_that_takes_no_chunk_is_refused_at_once(
    make: Make, pool: Workers, tmp_path: Path
) -> None:
    with (
        mosquitto(tmp_path, "allow_anonymous true", "max_packet_size 1500") as address,
        pytest.raises(RunError, match="takes packets of 1500 bytes") as refused,
    ):
        play_over(make("over"), pool, tmp_path / "over", address.url)
    assert "Raise the broker's limit" in refused.value.help


def test_nothing_is_left_on_the_broker_and_in_the_folder(
    make: Make, pool: Workers, tmp_path: Path, broker: Broker
) -> None:
    play_over(make("over", rounds=1), pool, tmp_path / "over", broker.url)
    found: list[ReceivedMessage] = []
    address = Address(broker.host, broker.port)
    wait_s = patience(10)
    link = MqttTransport(address, "looker", found.append, lambda _: None, wait_s=wait_s)
    link.subscribe("fl/#")
    link.publish("end", b"x", retain=True)
    link.subscribe("end")  # what is retained under fl comes before it
    waited(lambda: any(d.topic == "end" for d in found), WAIT_S)
    link.publish("end", b"", retain=True)
    link.close()
    assert {d.topic for d in found} == {"end"}
    assert not (tmp_path / "over" / "devices").exists()


def test_a_broker_of_ours_that_is_killed_in_a_round_is_back_and_the_model_the_same(
    make: Make, pool: Workers, tmp_path: Path
) -> None:
    changes = {"devices": 8, "cohort": 5, "rounds": 6}
    without = play(make("without", **changes), pool)
    simulation, killed = make("over", **changes), threading.Event()
    others = mosquittos()

    def kill() -> None:
        wait_for(simulation, 3)
        for child in mosquittos() - others:
            child.kill()
            killed.set()

    killer = threading.Thread(target=kill)
    killer.start()
    over = play_over(simulation, pool, tmp_path / "over", "mqtt", killer.join)
    assert killed.is_set()
    assert plain(over) == plain(without)
    assert models(tmp_path / "over") == models(tmp_path / "without")


def test_a_broker_that_stays_away_ends_the_run_with_a_remedy_and_it_goes_on(
    make: Make, pool: Workers, tmp_path: Path
) -> None:
    changes = {"devices": 8, "cohort": 5, "rounds": 4}
    without = play(make("without", **changes), pool)
    theirs = open_broker(None, tmp_path / "broker", kind="mosquitto")
    simulation = make("over", **changes)
    ended = threading.Thread(target=lambda: (wait_for(simulation, 2), theirs.close()))
    ended.start()
    with pytest.raises(
        RunError, match=r"round \d makes no progress.*nothing has"
    ) as died:
        play_over(
            *(simulation, pool, tmp_path / "over", theirs.url, ended.join),
            patience_s=patience(2.0),
        )
    assert "limits for packets" in died.value.help
    left = len(read_records(tmp_path / "over"))
    assert 2 <= left < 5
    with open_broker(None, tmp_path / "broker", kind="mosquitto") as again:
        over = play_over(make("over", **changes), pool, tmp_path / "over", again.url)
    assert plain(over) == plain(without)
    assert models(tmp_path / "over") == models(tmp_path / "without")


def mosquittos() -> set[psutil.Process]:
    family = psutil.Process().children(recursive=True)
    return {p for p in family if p.name() == "mosquitto"}


def wait_for(simulation: Simulation, rounds: int) -> None:
    while len(simulation.journal.records) < rounds:
        time.sleep(0.005)


def command(run: Path, *more: str) -> list[str]:
    return [
        *(sys.executable, "-m", "coordinator.cli", "simulate", str(run)),
        *("--settings", "sim.toml", "--workers", "1", *more),
    ]


def test_killed_with_a_broker_in_the_loop_it_goes_on_by_the_same_command(
    make: Make, tmp_path: Path
) -> None:
    data = next(iter(make().fleet.devices.values())).folder.parent
    (tmp_path / "sim.toml").write_text(
        f'task = "digits"\nfolder = "{data}"\ncohort = 3\ndensities = [0.2]\n'
        'rounds = 12\nalgorithm = "feddst"\n[training]\nmax_steps = 4\n'
    )
    run, over = tmp_path / "killed", ("--transport", "mqtt")
    killed_in_round(4, 12, run, *command(run, *over)[3:])
    for again in (command(run, *over), command(tmp_path / "whole")):
        subprocess.run(again, cwd=tmp_path, check=True, capture_output=True)
    assert plain(read_records(run)) == plain(read_records(tmp_path / "whole"))
    assert (run / "checkpoints" / model_name(12)).read_bytes() == (
        tmp_path / "whole" / "checkpoints" / model_name(12)
    ).read_bytes()


@pytest.mark.parametrize(
    ("transport", "code", "said"),
    [
        ("amqp://here", Exit.SETTINGS, "no transport"),
        ("mqtt://127.0.0.1:1", Exit.BROKER, "127.0.0.1:1"),
    ],
)
def test_a_transport_that_cannot_be_is_refused(
    tmp_path: Path, transport: str, code: Exit, said: str
) -> None:
    done = subprocess.run(
        [
            *(sys.executable, "-m", "coordinator.cli", "simulate", "run"),
            *("--preset", "digits", "--transport", transport),
        ],
        cwd=tmp_path,
        env={**os.environ, "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code, done.stderr
    assert said in done.stderr
    assert list(tmp_path.rglob("*")) == []  # refused before anything was prepared
