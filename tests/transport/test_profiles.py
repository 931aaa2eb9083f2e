"""Brokers that people pay for, with their limits enforced: nothing goes beyond them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from brokers import mosquitto
from limiting import LimitingBroker
from whole_run import CHUNKS, pack_wide, run_through

from edge_sdk.kernels.build import find_compiler, this_machine
from edge_sdk.transport.address import Address
from edge_sdk.transport.limits import NO_LIMIT, PROFILES
from edge_sdk.wire.blob import LARGEST_CHUNK


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Address]:
    folder = tmp_path_factory.mktemp("broker")
    with mosquitto(folder, "allow_anonymous true", "max_queued_messages 0") as there:
        yield there


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> bytes | None:
    """A bundle to deliver; a machine without a compiler makes none."""
    if find_compiler(this_machine()) is None:
        return None
    return pack_wide(tmp_path_factory.mktemp("bundle") / "wide")


@pytest.mark.broker
@pytest.mark.parametrize("name", [*PROFILES])
def test_a_run_and_a_delivery_stay_within_the_limits_of_a_known_broker(
    name: str,
    broker: Address,
    packed: bytes | None,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Both sides know them by name; the proxy ends links at the first breach."""
    caplog.set_level("INFO", "edge_sdk.transport")
    limits = PROFILES[name]
    with LimitingBroker(broker.port, limits) as proxy:
        there = Address("127.0.0.1", proxy.port, limits=limits)
        found = run_through(there, tmp_path, packed=packed)
        assert proxy.told == []
        assert not proxy.breaches
    assert found["rounds_done"] == 2
    assert found["updates"] == {"1": 2, "2": 2}
    stated = limits.packet if limits.packet < NO_LIMIT else 64 * 1024
    # It was a limit that mattered: an update goes in chunks as large as it takes.
    assert proxy.most["packet"] > 0.95 * min(stated, LARGEST_CHUNK)
    assert proxy.packets > 4 * CHUNKS
    (said,) = {m for m in caplog.messages if "the broker's limits" in m}
    assert f"{name}: " in said


@pytest.mark.broker
@pytest.mark.parametrize("name", ["aws-iot", "emqx"])
def test_links_that_are_cut_in_training_break_no_limit(
    name: str, broker: Address, packed: bytes | None, tmp_path: Path
) -> None:
    """A round may end without a device that was cut; `bench_brokers.py`: all six."""
    limits = PROFILES[name]
    with LimitingBroker(broker.port, limits) as proxy:
        there = Address("127.0.0.1", proxy.port, limits=limits)
        found = run_through(there, tmp_path, cut=proxy, packed=packed)
        assert proxy.told == []
    assert found["rounds_done"] == 2
