"""Which broker is chosen, and what is said when none can be; nothing is started."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from coordinator.broker import config as broker_config
from coordinator.broker.config import keep_port, kept_port
from coordinator.broker.start import open_broker
from edge_sdk.errors import BrokerError
from edge_sdk.transport.address import Address, parse_url


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("mqtt://a.example", Address("a.example", 1883)),
        ("mqtt://10.0.0.7:1999/", Address("10.0.0.7", 1999)),
        ("mqtt://[::1]:1884", Address("::1", 1884)),
        ("mqtt://u:p%40@h", Address("h", 1883, "u", "p@")),
    ],
)
def test_a_url_is_taken_apart(url: str, address: Address) -> None:
    assert parse_url(url) == address
    assert parse_url(address.url) == Address(address.host, address.port)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("http://broker.example", "not 'http'"),
        ("mqtt://", "needs a host"),
        ("mqtt://h:0", "port above 0"),
        ("mqtt://h:99999", "cannot be read"),
        ("mqtt://h:x", "cannot be read"),
        ("mqtt://h/topic", "something after"),
        ("", "needs a host"),
    ],
)
def test_a_url_that_cannot_be_is_refused(url: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(BrokerError, match=said) as caught:
        open_broker(url, tmp_path)
    assert caught.value.help


def test_without_any_broker_one_sentence_names_both_installs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(broker_config, "SYSTEM_FOLDERS", ())
    known = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *rest: None if name == "amqtt" else known(name, *rest),
    )
    with pytest.raises(BrokerError, match="no MQTT broker can be started") as caught:
        open_broker(None, tmp_path / "broker")
    assert "mosquitto is not installed" in str(caught.value)
    assert "amqtt is not installed" in str(caught.value)
    assert "apt-get install mosquitto" in caught.value.help
    assert "pip install" in caught.value.help
    assert not (tmp_path / "broker").exists()


def test_a_port_is_kept_and_a_damaged_file_is_named(tmp_path: Path) -> None:
    assert kept_port(tmp_path) is None
    keep_port(tmp_path, 1999)
    assert kept_port(tmp_path) == 1999
    for damaged in ("", "{}", "[]", '{"port": "1"}', '{"port": 70000}', "\xff"):
        (tmp_path / "broker.json").write_text(damaged)
        with pytest.raises(BrokerError, match=r"broker\.json does not hold a port"):
            kept_port(tmp_path)


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BrokerError, match="cannot be made"):
        open_broker(None, tmp_path / "file" / "broker")
