"""Certificates have an end, a purpose and an authority: signatures are held to it."""

from __future__ import annotations

import datetime as dt
import logging
import ssl
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import (
    Ed25519PrivateKey,
    Ed25519PublicKey,
)
from cryptography.hazmat.primitives.serialization import Encoding

from coordinator.identity.registry import IdentityRegistry
from coordinator.protocol.publisher import Publisher
from coordinator.protocol.receiver import MessageReceiver
from edge_sdk.device.doctor import DoctorTarget
from edge_sdk.device.doctor.link import identity
from edge_sdk.errors import IdentityError, RemoteProtocolError
from edge_sdk.identity import enroll as enrolment
from edge_sdk.identity.folder import DeviceFolder
from edge_sdk.identity.keys import check_issued, raw_key
from edge_sdk.identity.token import read_token
from edge_sdk.transport.base import ReceivedMessage
from edge_sdk.transport.memory import MemoryBroker
from edge_sdk.transport.refusals import in_tls_words
from edge_sdk.wire import topics
from edge_sdk.wire.codec import Header, decode, encode
from edge_sdk.wire.messages import Announce, Message, Renew, Revoked, TaskAck, Wait

Site = Any
UP = topics.upload("home", "pi-1", 0, data=False)
seq = iter(range(1, 10_000))


def packet(device: DeviceFolder, boot: int = 1) -> bytes:
    header = Header("task-ack", "home", "pi-1", "coordinator", 1, next(seq), boot)
    return encode(header, TaskAck("1-a"), sign=device.seal.sign)


def heard(identities: IdentityRegistry, device: DeviceFolder) -> bool:
    try:
        decode(packet(device), verify=identities.seal.verify)
    except RemoteProtocolError:
        return False
    return True


class Ear:
    """A coordinator's reception, and what it tells the device."""

    def __init__(self, site: Site) -> None:
        self.told: list[Message] = []
        broker = MemoryBroker()
        inbox = broker.connect(
            lambda d: self.told.append(decode(d.payload).message), lambda _: None
        )
        inbox.subscribe(topics.inbox("home", "pi-1"))
        link = broker.connect(lambda _: None, lambda _: None)
        publisher = Publisher(link, "home", 1, site.identities.seal.sign)
        self.receiver = MessageReceiver(
            "home", site.identities, publisher, time.monotonic
        )

    def hears(self, device: DeviceFolder) -> None:
        self.receiver.read(ReceivedMessage(UP, packet(device)))


def test_a_key_whose_certificate_is_over_is_not_believed_and_the_device_is_told(
    site: Site,
) -> None:
    device, ear = site.device("pi-1"), Ear(site)
    site.clock.pass_days(89.9)
    ear.hears(device)
    site.clock.pass_days(0.2)
    with pytest.raises(
        RemoteProtocolError,
        match="certificate of pi-1 ended on 2027-04-15, and",
    ):
        ear.hears(device)
    last = ear.told[-1]
    assert isinstance(last, Wait)
    assert "flash-coordinator enroll RUN --new NAME" in last.why
    site.clock.pass_days(399)
    assert not heard(site.reopen(), device)  # nor after a restart


def test_a_device_whose_certificate_is_over_enrols_again_without_being_revoked(
    site: Site,
) -> None:
    old = site.device("pi-1")
    with pytest.raises(IdentityError, match="taken"):
        site.identities.token("pi-1", "127.0.0.1", 1, hours=1)
    site.clock.pass_days(91)
    new = site.device("pi-1", "again")
    assert heard(site.identities, new)
    assert not heard(site.identities, old)


def test_each_key_of_a_renewal_ends_with_its_own_certificate(site: Site) -> None:
    """The older one does not live on because a newer one was made."""
    device = site.device("pi-1")
    site.clock.pass_days(80)
    site.identities.renew("pi-1", device.request())  # the answer is lost
    assert heard(site.identities, device)
    site.clock.pass_days(11)
    assert not heard(site.identities, device)


def test_a_renewal_whose_answer_was_lost_is_asked_for_again_long_before_the_end(
    site: Site,
) -> None:
    device, ear = site.device("pi-1"), Ear(site)
    site.clock.pass_days(61)
    ear.hears(device)
    assert isinstance(ear.told[-1], Renew)
    site.identities.renew("pi-1", device.request())  # lost
    site.clock.pass_days(1)
    assert site.identities.renewal_due("pi-1")
    device.install(site.identities.renew("pi-1", device.request()))
    ear.hears(device)
    assert not site.identities.renewal_due("pi-1")


def test_a_key_that_was_certified_for_long_but_never_used_is_certified_anew(
    site: Site,
) -> None:
    device = site.device("pi-1")
    site.clock.pass_days(61)  # one is due
    first = site.identities.renew("pi-1", device.request())
    site.clock.pass_days(91)
    assert site.identities.renew("pi-1", device.request()) != first


def test_a_token_that_is_repeated_does_not_give_out_a_certificate_that_is_over(
    site: Site,
) -> None:
    with site.listening() as listener:
        text = site.identities.token("pi-1", "127.0.0.1", listener.port, hours=1)
    key = enrolment.NewDevice(site.folder / "cut")
    secret = read_token(text).secret
    site.identities.enrol(secret, key.request())
    site.identities.enrol(secret, key.request())  # its answer was lost
    site.clock.pass_days(91)
    with pytest.raises(IdentityError, match="ended on"):
        site.identities.enrol(secret, key.request())


def test_a_coordinator_in_1970_believes_who_is_enrolled(site: Site) -> None:
    """Its clock certifies nothing, and ends nothing."""
    device = site.device("pi-1")
    site.clock.now = 100
    assert heard(site.identities, device)


def test_a_revoked_key_is_told_so_whether_it_is_over_or_not(site: Site) -> None:
    device, ear = site.device("pi-1"), Ear(site)
    site.identities.revoke("pi-1", "stolen")
    site.clock.pass_days(200)
    site.identities.refresh()
    with pytest.raises(RemoteProtocolError, match="pi-1 was revoked"):
        ear.hears(device)
    assert isinstance(ear.told[-1], Revoked)


def test_a_key_of_another_run_signs_nothing_here(site: Site, tmp_path: Path) -> None:
    other = type(site)(tmp_path / "other")
    stranger = other.device("pi-1")
    site.device("pi-1")
    assert heard(other.identities, stranger)
    assert not heard(site.identities, stranger)


@pytest.mark.parametrize("purpose", ["server", "authority", "other key", "other run"])
def test_a_certificate_for_another_purpose_is_no_devices(
    site: Site, tmp_path: Path, purpose: str
) -> None:
    device = site.device("pi-1")
    key = Ed25519PrivateKey.generate()
    authority = site.identities._authority
    until = dt.datetime.now(dt.timezone.utc) + dt.timedelta(days=9)
    public = Ed25519PublicKey.from_public_bytes(raw_key(key))
    made = {
        "server": lambda: authority.for_server(public, "127.0.0.1", until),
        "authority": lambda: authority.certificate,
        "other key": lambda: authority.for_device("pi-1", bytes(32), until),
        "other run": lambda: IdentityRegistry(
            tmp_path / "o", "home"
        )._authority.for_device("pi-1", raw_key(key), until),
    }[purpose]()
    with pytest.raises(IdentityError):
        check_issued(made, authority.certificate, raw_key(key))
    before = device.public_key
    device.request()
    assert not device.install(made.public_bytes(Encoding.DER))
    assert device.public_key == before


@pytest.mark.parametrize(
    ("clock", "said"),
    [(10, "is over"), (9, "is not valid yet")],
    ids=["ahead", "behind"],
)
def test_a_board_whose_clock_is_wrong_hears_of_its_clock_and_not_of_an_impostor(
    site: Site, monkeypatch: pytest.MonkeyPatch, clock: int, said: str
) -> None:
    wrong = ssl.SSLCertVerificationError("certificate verify failed")
    wrong.verify_code = clock
    monkeypatch.setattr(enrolment, "_authority", raises(wrong))
    with site.listening() as listener:
        text = site.identities.token("pi-1", "127.0.0.1", listener.port, hours=1)
    with pytest.raises(IdentityError, match=f"by this board's clock.*{said}") as why:
        enrolment.enroll(read_token(text), site.folder / "new")
    assert "Set the clock" in why.value.help


def raises(error: Exception) -> Callable[..., bytes]:
    def fail(*_: object) -> bytes:
        raise error

    return fail


@pytest.mark.parametrize("what", ["has expired", "is not yet valid"])
def test_the_link_names_the_clock_where_the_brokers_dates_do_not_fit(what: str) -> None:
    text = f"[SSL: CERTIFICATE_VERIFY_FAILED] verify failed: certificate {what} (x.c:1)"
    assert "set the clock" in in_tls_words(text)


def test_doctor_says_when_the_certificate_ended_and_what_the_clock_says(
    site: Site,
) -> None:
    site.device("pi-1")
    patient = DoctorTarget(identity=site.folder / "pi-1", today=dt.date(2099, 1, 1))
    check = identity(patient)
    assert check.status == "problem"
    assert "this board's clock says 2099-01-01" in check.detail
    assert "set it" in check.fix
    early = identity(
        DoctorTarget(identity=site.folder / "pi-1", today=dt.date(1970, 1, 1))
    )
    assert early.status == "PASS"


def test_a_coordinator_restarted_after_a_rotation_knows_its_own_old_word(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    broker = MemoryBroker()
    words: list[ReceivedMessage] = []
    link = broker.connect(words.append, lambda _: None)
    link.subscribe(topics.announcement("home"))
    said = Announce("stopped", "digits", 1, 9, ["fp32"])
    Publisher(link, "home", 1, site.identities.seal.sign).announce(said)
    site.reopen().rotate()
    with caplog.at_level(logging.WARNING):
        identities = site.reopen()
        publisher = Publisher(link, "home", 2, identities.seal.sign)
        assert (
            MessageReceiver("home", identities, publisher, time.monotonic).read(
                words[0]
            )
            is None
        )
    assert not caplog.records
    # Under the old key, which may have been stolen, nobody takes the run over.
    old = site.identities.seal.sign
    Publisher(link, "home", 9, old).announce(said)
    with pytest.raises(RemoteProtocolError, match="key that was replaced"):
        MessageReceiver("home", identities, publisher, time.monotonic).read(words[-1])
