"""Enrolment over a real TLS listener, and everything it has to refuse."""

from __future__ import annotations

import contextlib
import dataclasses
import socket
import ssl
import stat
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from patience import patience

from coordinator.identity import listener as listener_module
from coordinator.identity.listener import to_cut
from coordinator.identity.store import IdentityStore
from edge_sdk.errors import IdentityError
from edge_sdk.identity import enroll as enroll_module
from edge_sdk.identity import folder as folder_module
from edge_sdk.identity.enroll import enroll, settings_text
from edge_sdk.identity.exchange import AskAuthority
from edge_sdk.identity.folder import DEVICE, NEXT, DeviceFolder, NewDevice
from edge_sdk.identity.keys import key_pem
from edge_sdk.identity.token import Token, read_token
from edge_sdk.settings import DeviceSettings, load_settings, profile_of
from edge_sdk.terminal import Exit
from edge_sdk.wire.codec import Header, decode, encode
from edge_sdk.wire.messages import TaskAck, Wait

Site = Any


def token_of(site: Site, listener: Any, name: str = "pi-1", hours: float = 1) -> Token:
    text = site.identities.token(name, "127.0.0.1", listener.port, hours=hours)
    return read_token(text)


def test_an_enrolled_device_and_its_coordinator_believe_each_other(site: Site) -> None:
    device = site.device("pi-1")
    assert (device.name, device.federation) == ("pi-1", "home")
    up = Header("task-ack", "home", "pi-1", "coordinator", 1, 1, 1)
    packet = encode(up, TaskAck("1-a"), sign=device.seal.sign)
    assert decode(packet, verify=site.identities.seal.verify).message == TaskAck("1-a")
    down = Header("wait", "home", "coordinator", "pi-1", 1, 1, 1)
    packet = encode(down, Wait(1, "x"), sign=site.identities.seal.sign)
    assert decode(packet, verify=device.seal.verify).message == Wait(1, "x")


def test_keys_are_for_their_owners_eyes_only(site: Site) -> None:
    site.device("pi-1")
    for path in (
        site.folder / "pi-1" / DEVICE,
        site.folder / "run" / "identity.sqlite",
    ):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert not (site.folder / "pi-1" / NEXT).exists()
    (site.folder / "pi-1" / DEVICE).chmod(0o640)
    with pytest.raises(IdentityError, match="can be read by others") as caught:
        DeviceFolder(site.folder / "pi-1")
    assert caught.value.help.startswith("chmod 600")


def test_the_private_key_never_leaves_the_device(site: Site) -> None:
    device = site.device("pi-1")
    store = (site.folder / "run" / "identity.sqlite").read_bytes()
    assert device.public_key in store
    assert device._key.private_bytes_raw() not in store
    assert key_pem(device._key)[40:80] not in store


def test_a_tokens_secret_is_not_kept(site: Site) -> None:
    with site.listening() as listener:
        token = token_of(site, listener)
    assert token.secret not in (site.folder / "run" / "identity.sqlite").read_bytes()


def test_a_token_works_once(site: Site) -> None:
    with site.listening() as listener:
        token = token_of(site, listener)
        enroll(token, site.folder / "pi-1")
        with pytest.raises(IdentityError, match="was used already, to enrol pi-1"):
            enroll(token, site.folder / "thief")
    assert not (site.folder / "thief" / DEVICE).exists()


def test_two_that_use_one_token_at_once_are_not_both_let_in(site: Site) -> None:
    with site.listening() as listener:
        token = token_of(site, listener)
        failed: list[IdentityError] = []

        def come(number: int) -> None:
            try:
                enroll(token, site.folder / f"d{number}")
            except IdentityError as error:
                failed.append(error)

        threads = [threading.Thread(target=come, args=(n,)) for n in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    inside = [n for n in range(6) if (site.folder / f"d{n}" / DEVICE).exists()]
    assert len(inside) == 1
    assert len(failed) == 5


def test_an_answer_that_was_lost_is_given_again_to_the_same_key(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The coordinator dies after it has committed and before it answers."""
    with site.listening() as listener:
        token = token_of(site, listener)
        monkeypatch.setattr(
            listener_module.Listener, "_enrol", _commit_then_die(site.identities)
        )
        with pytest.raises(IdentityError, match="no enrolment") as caught:
            enroll(token, site.folder / "pi-1")
        assert "use the same token again" in caught.value.help
        monkeypatch.undo()
        assert not (site.folder / "pi-1" / DEVICE).exists()
    with site.listening(site.reopen()) as listener:
        again = dataclasses.replace(token, port=listener.port)
        assert enroll(again, site.folder / "pi-1").name == "pi-1"
    assert len(IdentityStore(site.folder / "run").certificates()) == 1


def _commit_then_die(identities: Any) -> Any:
    def enrol(_self: Any, secret: bytes, csr: bytes, _peer: str) -> None:
        identities.enrol(secret, csr)
        raise OSError("killed")

    return enrol


def test_a_device_killed_before_it_has_kept_its_certificate_goes_on(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    def no_power(path: Path, *_a: Any, **_k: Any) -> None:
        if path.name == DEVICE:
            raise Killed
        write(path, *_a, **_k)

    write = folder_module._write
    with site.listening() as listener:
        token = token_of(site, listener)
        monkeypatch.setattr(folder_module, "_write", no_power)
        with pytest.raises(Killed):
            enroll(token, site.folder / "pi-1")
        monkeypatch.undo()
        enroll(token, site.folder / "pi-1")
    assert DeviceFolder(site.folder / "pi-1").name == "pi-1"


KILLED_AT_DEVICE = """
import os, sys
from edge_sdk.identity import folder
write = folder._write
def dies(path, *rest):
    if path.name == "device.pem":
        os.kill(os.getpid(), 9)
    write(path, *rest)
folder._write = dies
from edge_sdk.cli import main
main()
"""


def test_enrol_killed_at_its_last_write_is_ended_by_the_same_line(
    site: Site, tmp_path: Path
) -> None:
    """The operator's whole line, name and token, as it was pasted."""
    with site.listening() as listener:
        text = site.identities.token("pi-1", "127.0.0.1", listener.port, hours=1)
        words = ["enroll", "pi-1", text, "--folder", str(tmp_path / "pi-1")]
        first = subprocess.run(
            [sys.executable, "-c", KILLED_AT_DEVICE, *words], check=False
        )
        assert first.returncode == -9
        assert not (tmp_path / "pi-1/identity" / DEVICE).exists()
        again = [sys.executable, "-m", "edge_sdk.cli", *words]
        subprocess.run(again, check=True, capture_output=True)
        twice = subprocess.run(again, check=False, capture_output=True, text=True)
    settings = load_settings(tmp_path / "pi-1/device.toml", DeviceSettings)
    assert settings.identity is not None
    assert DeviceFolder(settings.identity).name == settings.name == "pi-1"
    assert settings.state.is_dir()
    assert twice.returncode == Exit.SETTINGS
    assert "To enrol this device anew: move" in twice.stderr


def test_a_profile_of_ones_own_is_written_so_that_run_finds_it(
    site: Site, tmp_path: Path
) -> None:
    """Relative to the current folder, as every path on a command line."""
    (tmp_path / "own.toml").write_text('like = "raspberry_pi_4b_4gb"\n')
    with site.listening() as listener:
        token = site.identities.token("pi-1", "127.0.0.1", listener.port, hours=1)

        def enroll_with(profile: str) -> subprocess.CompletedProcess[str]:
            words = ["enroll", token, "--folder", "pi-1", "--profile", profile]
            return subprocess.run(
                [sys.executable, "-m", "edge_sdk.cli", *words],
                cwd=tmp_path,
                check=False,
                capture_output=True,
                encoding="utf-8",
            )

        wrong = enroll_with("onw.toml")  # and the token is still good
        right = enroll_with("own.toml")
    assert wrong.returncode == Exit.SETTINGS
    assert "onw.toml" in wrong.stderr
    assert right.returncode == 0, right.stderr
    settings = load_settings(tmp_path / "pi-1/device.toml", DeviceSettings)
    assert settings.profile == str(tmp_path / "own.toml")
    found = profile_of(settings.profile, tmp_path / "pi-1")
    assert found.board == "raspberry_pi_4b_4gb"


def test_a_token_too_old_replaced_unknown_or_of_a_taken_name_is_refused(
    site: Site,
) -> None:
    with site.listening() as listener:
        old = token_of(site, listener, "old", hours=1)
        replaced = token_of(site, listener, "pi-1")
        token_of(site, listener, "pi-1")
        site.clock.now += 3601
        unknown = dataclasses.replace(old, secret=bytes(16))
        for token, said in (
            (old, "too old"),
            (replaced, "newer one replaced it"),
            (unknown, "not known here"),
        ):
            with pytest.raises(IdentityError, match=said):
                enroll(token, site.folder / "x")
    site.device("pi-1", "again")
    with pytest.raises(IdentityError, match="taken"):
        site.identities.token("pi-1", "127.0.0.1", 1, hours=1)


def test_a_coordinator_with_another_fingerprint_gets_no_secret(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = type(site)(tmp_path / "other")
    asked: list[object] = []
    answer = listener_module.Listener._answer

    def spy(self: Any, question: Any, peer: str) -> Any:
        asked.append(question)
        return answer(self, question, peer)

    monkeypatch.setattr(listener_module.Listener, "_answer", spy)
    with other.listening() as impostor:
        token = token_of(site, impostor)
        with pytest.raises(IdentityError, match="another fingerprint"):
            enroll(token, site.folder / "pi-1")
    assert asked == [AskAuthority()]


def test_one_that_shows_the_right_authority_but_is_not_of_it_gets_no_secret(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The authority's certificate is public; only its holder can make the server's."""
    other = type(site)(site.folder / "other")
    monkeypatch.setattr(
        type(other.identities),
        "authority",
        property(lambda _: site.identities._authority.der),
    )
    with other.listening() as impostor:
        text = site.identities.token("pi-1", "127.0.0.1", impostor.port, hours=1)
        with pytest.raises(IdentityError, match="is not the coordinator of this token"):
            enroll(read_token(text), site.folder / "pi-1")


def test_nobody_there_is_one_sentence_with_a_remedy(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(enroll_module, "WAIT_S", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        for port in (1, silent.getsockname()[1]):
            token = Token("127.0.0.1", port, bytes(20), bytes(16))
            with pytest.raises(IdentityError, match=f"no enrolment at .*:{port}"):
                enroll(token, site.folder / "pi-1")


def test_a_folder_with_an_identity_is_not_overwritten(site: Site) -> None:
    device = site.device("pi-1")
    with pytest.raises(IdentityError, match="holds a device's identity already"):
        NewDevice(site.folder / "pi-1")
    assert DeviceFolder(site.folder / "pi-1").public_key == device.public_key


def test_strangers_that_say_nothing_noise_or_too_much_leave_it_running(
    site: Site,
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with site.listening() as listener:
        where = "127.0.0.1", listener.port
        silent = [socket.create_connection(where) for _ in range(100)]
        for noise in (b"GET / HTTP/1.1\r\n\r\n", b"\xff" * 4 + bytes(100_000)):
            with socket.create_connection(where) as link:
                link.sendall(noise)
        with (
            socket.create_connection(where) as raw,
            context.wrap_socket(raw) as link,
        ):
            link.sendall(b"\xff\xff\xff\xff")
        token = token_of(site, listener)
        assert enroll(token, site.folder / "pi-1").name == "pi-1"
        for one in silent:
            one.close()


class Slow(threading.Thread):
    """Holds links open that say a byte now and then, in TLS or before it."""

    def __init__(self, where: tuple[str, int], count: int, *, tls: bool) -> None:
        super().__init__(daemon=True)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        self.links: list[socket.socket] = []
        for _ in range(count):
            raw = socket.create_connection(where, timeout=patience(20))
            self.links.append(context.wrap_socket(raw) if tls else raw)
        self.words = b"\x00\x00\x40\x00" if tls else b"\x16\x03\x01\x40\x00\x01"
        self.over = threading.Event()
        self.start()

    def run(self) -> None:
        word = 0
        while not self.over.wait(0.05):
            for link in self.links:
                with contextlib.suppress(OSError):
                    link.send(self.words[word : word + 1] or b"\x00")
            word += 1

    def close(self) -> None:
        self.over.set()
        self.join()
        for link in self.links:
            link.close()


@pytest.mark.parametrize("tls", [False, True], ids=["before TLS", "in TLS"])
def test_slow_links_shut_nobody_out_and_delay_no_end(site: Site, tls: bool) -> None:
    with site.listening() as listener:
        token = token_of(site, listener)
        slow = Slow(("127.0.0.1", listener.port), 8, tls=tls)
        assert enroll(token, site.folder / "pi-1").name == "pi-1"
        listener.close()  # does not wait for their deadline, ten seconds away
        assert all(_is_over(link) for link in slow.links)
        slow.close()


def _is_over(link: socket.socket) -> bool:
    try:
        link.settimeout(patience(20))
        return link.recv(1) == b""
    except OSError:
        return True


@pytest.mark.parametrize("tls", [False, True], ids=["before TLS", "in TLS"])
def test_a_link_that_speaks_slowly_has_one_deadline_for_all_it_says(
    site: Site, monkeypatch: pytest.MonkeyPatch, tls: bool
) -> None:
    with site.listening() as listener:
        monkeypatch.setattr(listener_module, "PATIENCE_S", 1.0)
        slow = Slow(("127.0.0.1", listener.port), 2, tls=tls)  # a byte each 50 ms
        assert all(_is_over(link) for link in slow.links)
        slow.close()


def test_room_is_made_by_the_oldest_of_who_holds_most() -> None:
    cut = partial(to_cut, at_once=6, per_address=3)
    assert cut([], "a") is None
    assert cut(["a", "b", "a"], "a") is None
    assert cut(["b", "a", "a", "a"], "a") == 1  # its own oldest
    assert cut(["b", "a", "c", "a", "d", "a"], "e") == 1
    assert cut(["b", "a", "a"], "b") is None


@given(st.lists(st.sampled_from("abcdefgh"), max_size=300))
def test_the_bounds_of_the_listener_hold_whoever_comes(peers: list[str]) -> None:
    links: list[str] = []
    for peer in peers:
        place = to_cut(links, peer, at_once=5, per_address=2)
        if place is not None:
            del links[place]
        links.append(peer)
        assert len(links) <= 5
        assert links.count(peer) <= 2


def test_a_coordinator_that_answers_a_byte_at_a_time_holds_no_device(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(enroll_module, "WAIT_S", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        over = threading.Event()

        def drip() -> None:
            link, _ = server.accept()
            with link, contextlib.suppress(OSError):
                while not over.wait(0.05):
                    link.send(b"\x16")

        thread = threading.Thread(target=drip, daemon=True)
        thread.start()
        token = Token("127.0.0.1", port, bytes(20), bytes(16))
        with pytest.raises(IdentityError, match="no enrolment at"):
            enroll(token, site.folder / "pi-1")
        over.set()
        thread.join()


def test_a_taken_port_is_named(site: Site) -> None:
    with site.listening() as listener, pytest.raises(IdentityError) as caught:
        listener_module.Listener(
            site.identities,
            listener._welcome,
            bind="127.0.0.1",
            port=listener.port,
            address="127.0.0.1",
        )
    assert f"port {listener.port} cannot be used" in str(caught.value)
    assert "enroll_port" in caught.value.help


def test_the_settings_written_are_settings_that_can_be_read(
    site: Site, tmp_path: Path
) -> None:
    with site.listening() as listener:
        answer = enroll(token_of(site, listener), tmp_path / "pi-1" / "identity")
    text = settings_text(
        answer, identity="identity", data='a "b"\\c', state="state", profile="p.toml"
    )
    path = tmp_path / "pi-1" / "device.toml"
    path.write_text(text)
    found = load_settings(path, DeviceSettings)
    assert (found.name, found.federation, found.task) == ("pi-1", "home", "digits")
    assert found.broker == "mqtts://127.0.0.1:8883"
    assert found.identity == path.parent.resolve() / "identity"
