"""The whole guarded path, as a person walks it: real commands and processes."""

from __future__ import annotations

import re
import stat
import time
from pathlib import Path
from typing import Any

import pytest
from databases import opened

from coordinator.broker.check import check_broker
from edge_sdk.errors import BrokerError
from edge_sdk.terminal import Exit
from edge_sdk.transport.address import Address, Tls, parse_url

pytestmark = pytest.mark.broker
DEVICES = ("pi-1", "pi-2")


def has_consent(settings: Path) -> None:
    settings.write_text(f'consent = "research only"\n{settings.read_text()}')


def test_from_init_to_a_revoked_device_everything_is_certified_and_signed(
    site: Any,
) -> None:
    tokens = site.tokens(*DEVICES)
    site.start_coordinator()
    site.wait((site.run / "broker.url").exists, "the broker")
    for name in DEVICES:
        done = site.device(
            "enroll", tokens[name], "--folder", name, "--data", site.data[name]
        )
        assert done.returncode == 0, done.stderr
        assert re.search(r"profile: \w+, guessed from", done.stderr + done.stdout)
        key = site.folder / name / "identity" / "device.pem"
        assert stat.S_IMODE(key.stat().st_mode) == 0o600
    again = site.device("enroll", tokens["pi-1"], "--folder", "thief")
    assert again.returncode == Exit.IDENTITY
    assert "was used already, to enrol pi-1" in again.stderr
    assert not (site.folder / "thief" / "device.toml").exists()

    healthy = site.doctor("pi-1")
    assert "PASS     identity: pi-1 in site" in healthy
    assert "PASS     TLS: handshake done" in healthy

    has_consent(site.folder / "pi-1" / "device.toml")
    for name in DEVICES:
        site.start_device(name)
    site.wait(lambda: site.rounds_done() >= 2, "two rounds")
    assert "consent: research only" in site.coordinator("devices", site.run, "pi-1")

    # The coordinator's key is replaced: both devices follow, without a restart.
    assert "key 1 signs" in site.coordinator("rotate", site.run)
    site.wait(
        lambda: all("signs with key 1 from now on" in site.log(n) for n in DEVICES),
        "the devices to follow the key",
    )
    site.more_rounds(2, "rounds under the new key")

    # A device is revoked: it is told why, and the other goes on.
    site.coordinator("revoke", site.run, "pi-2", "--why", "it was stolen")
    site.wait(lambda: site.ended("pi-2"), "the end of the revoked device")
    assert site.processes["pi-2"].returncode == Exit.IDENTITY
    assert "pi-2 was revoked: it was stolen" in site.log("pi-2")
    assert "until 5005 rounds are" in site.coordinator(
        "extend", site.run, "--rounds", 5
    )
    site.more_rounds(2, "rounds without it")
    assert site.coordinator("status", site.run).count("5005")
    assert not site.ended("pi-1")
    assert "this device was revoked" in site.doctor("pi-2")
    site.start_device("pi-2")  # it is not even let in, and says why
    refused = "refuses this certificate: it was revoked"
    site.wait(lambda: refused in site.log("pi-2"), "the broker's refusal")

    # Its name can be let in again, with other keys.
    token = site.tokens("pi-2")["pi-2"]
    done = site.device("enroll", token, "--folder", "new", "--data", site.data["pi-2"])
    assert done.returncode == 0, done.stderr
    old, new = (
        (site.folder / f / "identity" / "device.pem").read_bytes()
        for f in ("pi-2", "new")
    )
    assert old != new

    # A stranger checks how the models were made, and a device that it is in them.
    proof, pi_1 = site.folder / "proof.zip", site.folder / "pi-1"
    site.coordinator("prove", site.run, "--out", proof)
    authority = pi_1 / "identity" / "authority.pem"
    said = site.coordinator("verify", proof, "--authority", authority)
    assert "the proof holds" in said
    assert "were made again, bit for bit" in said
    assert re.search(r"pi-1 .*consent: research only$", said, re.MULTILINE)
    own = site.device("verify", proof, "--settings", pi_1 / "device.toml")
    assert own.returncode == 0, own.stdout + own.stderr
    assert re.search(r"latest updates [1-9]\d* are in a model", own.stdout)
    assert "Traceback" not in site.log("coordinator") + site.log("pi-1")


def test_a_running_device_renews_its_keys_and_the_old_ones_open_nothing(
    site: Any,
) -> None:
    site.admit(*DEVICES)
    for name in DEVICES:
        site.start_device(name)
    site.wait(lambda: site.rounds_done() >= 1, "a round")
    identity = site.folder / "pi-1" / "identity"
    old = site.folder / "old.pem"
    old.write_bytes((identity / "device.pem").read_bytes())
    # The coordinator's book says that it is almost over: asked at the next word.
    soon = int(time.time()) + 10 * 86_400  # noqa: TID251 - a date in a store
    with opened(site.run / "identity.sqlite") as book:
        book.execute("UPDATE certificates SET until = ? WHERE name = 'pi-1'", (soon,))
        book.execute("UPDATE facts SET value = value + 1 WHERE key = 'version'")
    site.wait(
        lambda: "the new certificate is in use" in site.log("pi-1"), "the new keys"
    )
    assert (identity / "device.pem").read_bytes() != old.read_bytes()

    # The next link stands on the new certificate, in the same process.
    site.kill_broker()
    now = site.rounds_done()
    site.wait(lambda: site.rounds_done() >= now + 2, "rounds under the new keys")
    assert not any(site.ended(name) for name in DEVICES)
    assert "renewing" not in site.log("pi-2")
    url = parse_url((site.run / "broker.url").read_text().strip())
    tls = Tls(identity / "authority.pem", old)

    def refused() -> bool:
        try:
            check_broker(Address(url.host, url.port, tls=tls))
        except BrokerError as error:
            return "it was revoked" in str(error)
        return False

    site.wait(refused, "the broker's new list of revoked certificates")
