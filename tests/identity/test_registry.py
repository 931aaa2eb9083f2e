"""Renewal, rotation and revocation, over crashes and other processes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from coordinator.cli import app
from coordinator.identity.policy import NEW_KEYS_A_DAY
from coordinator.identity.registry import IdentityRegistry
from coordinator.ledger import open_ledger
from edge_sdk.errors import IdentityError, RemoteProtocolError
from edge_sdk.identity.folder import NEXT, DeviceFolder
from edge_sdk.identity.keys import key_pem
from edge_sdk.identity.signatures import signer
from edge_sdk.terminal import Exit
from edge_sdk.wire.codec import Header, decode, encode
from edge_sdk.wire.messages import NextKey, TaskAck, Wait

Site = Any
UP = Header("task-ack", "home", "pi-1", "coordinator", 1, 1, 1)
DOWN = Header("wait", "home", "coordinator", "pi-1", 1, 1, 1)


def heard(identities: IdentityRegistry, device: DeviceFolder) -> bool:
    packet = encode(UP, TaskAck("1-a"), sign=device.seal.sign)
    try:
        decode(packet, verify=identities.seal.verify)
    except RemoteProtocolError:
        return False
    return True


def believed(device: DeviceFolder, identities: IdentityRegistry) -> bool:
    packet = encode(DOWN, Wait(1, "x"), sign=identities.seal.sign)
    try:
        decode(packet, verify=device.seal.verify)
    except RemoteProtocolError:
        return False
    return True


def follow(device: DeviceFolder, identities: IdentityRegistry) -> None:
    """What an agent does with the retained words on later keys."""
    for number, notice in identities.notices:
        if number == device.number + 1:
            message = decode(notice, verify=device.seal.verify).message
            assert isinstance(message, NextKey)
            assert device.adopt(message.number, message.key)


def test_a_certificate_is_renewed_with_other_keys_and_the_old_ones_end(
    site: Site,
) -> None:
    device = site.device("pi-1")
    assert not site.identities.renewal_due("pi-1")
    site.clock.pass_days(61)
    assert site.identities.renewal_due("pi-1")
    before, old = device.public_key, DeviceFolder(site.folder / "pi-1")
    certificate = site.identities.renew("pi-1", device.request())
    assert heard(
        site.identities, old
    )  # until the device has taken the new keys into use
    assert device.install(certificate)
    assert device.public_key != before
    assert heard(site.identities, device)
    assert not heard(site.identities, old)  # from the first word under the new ones on
    assert not site.identities.renewal_due("pi-1")
    assert DeviceFolder(site.folder / "pi-1").public_key == device.public_key
    assert site.identities.refused() == set()


def test_a_renewal_cut_anywhere_goes_on(site: Site) -> None:
    device = site.device("pi-1")
    site.clock.pass_days(61)
    device.request()  # killed before it was sent
    again = DeviceFolder(site.folder / "pi-1")
    first = site.identities.renew("pi-1", again.request())  # the answer is lost
    identities = site.reopen()
    assert heard(identities, again)
    second = identities.renew("pi-1", again.request())
    assert first == second
    assert again.install(second)
    assert heard(identities, again)
    assert heard(site.reopen(), again)


def test_a_certificate_that_fits_no_next_key_changes_nothing(site: Site) -> None:
    device, other = site.device("pi-1"), site.device("pi-2")
    site.clock.pass_days(61)
    first = site.identities.renew("pi-1", device.request())
    assert device.install(first)
    key = device.public_key
    assert not device.install(first)  # sent again
    theirs = site.identities.renew("pi-2", other.request())
    device.request()
    assert not device.install(theirs)
    assert device.public_key == key
    assert (site.folder / "pi-1" / NEXT).exists()


def test_a_device_that_asks_on_and_on_gets_a_certificate_only_when_one_is_due(
    site: Site,
) -> None:
    device = site.device("pi-1")
    for _ in range(20):  # a new key each time
        (site.folder / "pi-1" / NEXT).unlink(missing_ok=True)
        with pytest.raises(IdentityError, match="is good for 90 more days"):
            site.identities.renew("pi-1", device.request())
    site.clock.pass_days(61)
    made = set()
    for _ in range(NEW_KEYS_A_DAY):
        (site.folder / "pi-1" / NEXT).unlink(missing_ok=True)
        made.add(site.identities.renew("pi-1", device.request()))
    assert len(made) == NEW_KEYS_A_DAY
    (site.folder / "pi-1" / NEXT).unlink(missing_ok=True)
    with pytest.raises(IdentityError, match="4 certificates within a day"):
        site.identities.renew("pi-1", device.request())
    assert heard(site.identities, device)  # under the key that it has in use
    site.clock.pass_days(1)
    assert device.install(site.identities.renew("pi-1", device.request()))
    assert heard(site.identities, device)
    assert not site.identities.renewal_due("pi-1")


def test_a_device_is_reminded_until_the_new_key_is_in_use(site: Site) -> None:
    device = site.device("pi-1")
    site.clock.pass_days(61)
    certificate = site.identities.renew("pi-1", device.request())
    assert site.identities.renewal_due("pi-1")  # it may not have heard the answer
    assert site.identities.renew("pi-1", device.request()) == certificate
    assert device.install(certificate)
    assert heard(site.identities, device)
    assert not site.identities.renewal_due("pi-1")


def test_a_stranger_cannot_renew(site: Site) -> None:
    device = site.device("pi-1")
    with pytest.raises(IdentityError, match="pi-9 is not enrolled"):
        site.identities.renew("pi-9", device.request())
    site.identities.revoke("pi-1", "lost")
    with pytest.raises(IdentityError, match="pi-1 is not enrolled"):
        site.identities.renew("pi-1", device.request())


def test_revoked_from_another_process_a_device_is_refused_and_its_serials_listed(
    site: Site,
) -> None:
    device, other = site.device("pi-1"), site.device("pi-2")
    site.clock.pass_days(61)
    device.install(site.identities.renew("pi-1", device.request()))
    assert heard(site.identities, device)
    before = site.identities.services.revocations()
    site.reopen().revoke("pi-1", "it was stolen")
    site.identities.refresh()
    assert not heard(site.identities, device)
    assert heard(site.identities, other) is False  # another name, another key
    assert site.identities.refused() == {"pi-1"}
    assert site.identities.people["pi-1"].revoked == "it was stolen"
    assert site.identities.people["pi-1"].last_key == device.public_key
    assert len(site.identities.services.revocations()) > len(before)


def test_a_revoked_name_can_be_let_in_again_with_another_key_only(site: Site) -> None:
    old = site.device("pi-1")
    site.identities.revoke("pi-1", "lost")
    new = site.device("pi-1", "pi-1-again")
    site.identities.refresh()
    assert heard(site.identities, new)
    assert not heard(site.identities, old)
    assert site.identities.refused() == set()


def test_revoking_takes_back_an_unused_token(site: Site) -> None:
    with site.listening() as listener:
        site.identities.token("pi-1", "127.0.0.1", listener.port, hours=1)
        assert "pi-1" in site.identities.taken()
        site.identities.revoke("pi-1", "a slip")
        assert site.identities.taken() == set()
    with pytest.raises(IdentityError, match="no device pi-7 is enrolled"):
        site.identities.revoke("pi-7", "x")


def test_devices_follow_the_coordinators_key_also_those_that_slept(site: Site) -> None:
    device, sleeper = site.device("pi-1"), site.device("pi-2")
    for number in (1, 2, 3):
        assert site.reopen().rotate() == number  # by a command in another process
        assert believed(device, site.identities)  # until it is announced
        site.identities.take_up()
        assert not believed(device, site.identities)
        follow(device, site.identities)
        assert believed(device, site.identities)
    for _ in range(3):
        follow(sleeper, site.identities)
    assert believed(sleeper, site.identities)
    assert believed(DeviceFolder(site.folder / "pi-2"), site.reopen())
    assert not device.adopt(2, bytes(32))  # an old word, sent again


def test_a_key_that_was_replaced_is_forgotten(site: Site) -> None:
    device = site.device("pi-1")
    old = site.identities._snapshot.key
    site.identities.rotate()
    site.identities.refresh()
    follow(device, site.identities)
    store = (site.folder / "run" / "identity.sqlite").read_bytes()
    assert key_pem(site.identities._snapshot.key) in store
    assert key_pem(old)[40:80] not in store
    packet = encode(DOWN, Wait(1, "x"), sign=signer(lambda: old))
    with pytest.raises(RemoteProtocolError):
        decode(packet, verify=device.seal.verify)


def test_a_run_of_another_name_cannot_take_the_store(site: Site) -> None:
    with pytest.raises(IdentityError, match="belongs to another federation"):
        IdentityRegistry(site.folder / "run", "elsewhere")


def test_the_enrolment_port_is_kept_unless_another_is_set(site: Site) -> None:
    assert site.identities.port(0, lambda: 7001) == 7001
    assert site.reopen().port(0, lambda: 7002) == 7001
    assert site.identities.port(7003, lambda: 0) == 7003
    assert site.identities.port(0, lambda: 0) == 7003


def test_in_1970_nothing_is_certified(site: Site) -> None:
    with site.listening() as listener:
        site.identities.token("pi-1", "127.0.0.1", listener.port, hours=1)
    site.clock.now = 100
    with pytest.raises(IdentityError, match="clock was never set"):
        site.identities.token("pi-2", "127.0.0.1", 1, hours=1)
    with pytest.raises(IdentityError, match="clock was never set"):
        site.identities.enrol(bytes(16), b"")


def test_tokens_for_a_coordinator_that_runs_in_the_clear_are_refused(
    tmp_path: Path,
) -> None:
    """It listens for no enrolment: devices would only hear "connection refused"."""
    (tmp_path / "run.toml").write_text(
        f'federation = "home"\ntask = "digits"\nevaluation = "{tmp_path}"\n'
        "densities = [0.4]\nrounds = 2\n"
    )
    enrol = ["enroll", str(tmp_path), "--new", "pi-1"]
    running = open_ledger(tmp_path)
    try:
        refused = CliRunner().invoke(app, enrol)
    finally:
        running.close()
    assert refused.exit_code == Exit.IDENTITY
    assert "without encryption" in refused.stderr
    assert not IdentityRegistry.exists(tmp_path)
    assert CliRunner().invoke(app, enrol).exit_code == 0
    running = open_ledger(tmp_path)
    try:
        assert CliRunner().invoke(app, [*enrol[:-1], "pi-2"]).exit_code == 0
    finally:
        running.close()
