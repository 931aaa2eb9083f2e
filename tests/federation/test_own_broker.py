"""Rounds on a broker of the user's: its own authority, passwords and access list."""

from __future__ import annotations

import json
import os
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kept import command_lines, leaks, open_to_others, private_keys
from ports import free_port
from walls import HttpProxy

import coordinator.cli
import edge_sdk.cli
from coordinator.broker.config import find_mosquitto
from edge_sdk.terminal import Exit, secrets

pytestmark = [pytest.mark.broker, pytest.mark.slow]
PASSWORD = "p@ss/word:1"  # noqa: S105 - of a broker that lives for this test
QUOTED = "p%40ss%2Fword%3A1"  # as URLs have it
WALL = "behindthewall"  # the proxy's, of user me
USERS = ("operator", "pi-1", "pi-2")

CONFIG = """\
listener {port} 127.0.0.1
certfile {folder}/broker.pem
keyfile {folder}/broker.key
password_file {folder}/passwords
acl_file {folder}/access
allow_anonymous false
persistence false
user root
log_dest file {folder}/log
"""
# The second table of docs/security.md, in mosquitto's words.
ACCESS = """\
user operator
topic readwrite fl/1/site/#
pattern write fl/1/site/d/%u/up/#
pattern write fl/1/site/d/%u/st
pattern read fl/1/site/d/%u/in
pattern read fl/1/site/c/#
pattern read fl/1/site/m/#
"""


class OwnBroker:
    """Mosquitto as somebody else has set it up, with the usual tools."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.folder, self.authority = folder, folder / "ca.pem"
        self.port = free_port()
        (folder / "passwords").touch()
        make = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
        for line in (
            ("openssl", "req", "-x509", *make, "-keyout", "ca.key", "-out", "ca.pem",
             "-subj", "/CN=somebody else", "-days", "2"),
            ("openssl", "req", *make, "-keyout", "broker.key", "-out", "broker.csr",
             "-subj", "/CN=broker", "-addext", "subjectAltName=IP:127.0.0.1"),
            ("openssl", "x509", "-req", "-in", "broker.csr", "-out", "broker.pem",
             "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial",
             "-copy_extensions", "copy", "-days", "2"),
            *(("mosquitto_passwd", "-b", "passwords", u, PASSWORD) for u in USERS),
        ):  # fmt: skip
            subprocess.run(line, cwd=folder, check=True, capture_output=True)
        (folder / "access").write_text(ACCESS)
        config = folder / "mosquitto.conf"
        config.write_text(CONFIG.format(port=self.port, folder=folder))
        self.process = subprocess.Popen([str(find_mosquitto()), "-c", str(config)])

    def url(self, user: str) -> str:
        return f"mqtts://{user}:{QUOTED}@127.0.0.1:{self.port}"

    def close(self) -> None:
        self.process.terminate()
        self.process.wait()


@pytest.fixture
def own(tmp_path: Path) -> Iterator[OwnBroker]:
    made = OwnBroker(tmp_path / "theirs")
    yield made
    made.close()


@pytest.fixture
def wall(own: OwnBroker) -> Iterator[str]:
    """A proxy's URL, password included."""
    with HttpProxy(lambda _host, _port: own.port, f"me:{WALL}") as proxy:
        yield f"http://me:{WALL}@127.0.0.1:{proxy.port}"


def test_rounds_complete_on_the_users_own_broker_with_its_authority_and_passwords(
    site: Any,
    own: OwnBroker,
    wall: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    site.forks = False  # their command lines are looked at
    settings = site.run / "run.toml"
    theirs = f'broker = "{own.url("operator")}"\nbroker_ca = "{own.authority}"\n'
    theirs += f'proxy = "{wall}"\n'
    assert 'broker = ""\n' in settings.read_text()
    settings.write_text(settings.read_text().replace('broker = ""\n', theirs))
    for path in (site.run, *site.run.rglob("*")):  # as an older version left it
        path.chmod(0o755 if path.is_dir() else 0o644)
    before = os.umask(0o022)  # of this process, and so of all that it starts
    try:
        site.admit("pi-1", "pi-2")
    finally:
        os.umask(before)
    for name in ("pi-1", "pi-2"):
        path = site.settings(name)
        given = f'broker = "mqtts://127.0.0.1:{own.port}"\n'
        assert given in path.read_text()
        if name == "pi-2":  # without its password it is told what is missing
            site.start_device(name)
            site.wait(
                lambda: "check user and password" in site.log("pi-2"), "the refusal"
            )
            site.processes[name].kill()
            site.processes[name].wait()
        path.write_text(path.read_text().replace(given, _access(site, own, name, wall)))
        site.start_device(name)
    site.wait(lambda: site.rounds_done() >= 3, "rounds on their broker")
    running = [process.pid for process in site.processes.values()]
    shown = command_lines(*running)
    assert "coordinator.cli run" in shown
    assert "edge_sdk.cli run" in shown
    shown += "".join(site.log(n) for n in ("coordinator", "pi-1", "pi-2"))
    assert not any(secret in shown for secret in (PASSWORD, QUOTED, WALL))
    # Their broker lets a revoked device in; nothing of it is believed.
    site.coordinator("revoke", site.run, "pi-2", "--why", "it was stolen")
    site.wait(lambda: site.ended("pi-2"), "the end of the revoked device")
    assert site.processes["pi-2"].returncode == Exit.IDENTITY
    site.start_device("pi-2")
    site.wait(lambda: site.ended("pi-2"), "its end, told again")
    assert site.log("pi-2").count("pi-2 was revoked: it was stolen") == 2
    now = site.rounds_done()
    site.wait(lambda: site.rounds_done() >= now + 2, "rounds without it")
    assert own.process.poll() is None
    site.coordinator("stop", site.run)
    _is_said_to_be_revoked(site)
    before = os.umask(0o022)
    try:
        _no_command_shows_a_secret(site, monkeypatch, capfd)
    finally:
        os.umask(before)
    _kept_for_one_user_and_without_secrets(site)


def _access(site: Any, own: OwnBroker, name: str, wall: str) -> str:
    """How a device reaches the broker: by its URL alone, or file and proxy."""
    if name == "pi-2":
        return f'broker = "{own.url(name)}"\n'
    file = site.folder / "password"
    file.write_text(f"{PASSWORD}\n")
    return (
        f'broker = "mqtts://127.0.0.1:{own.port}"\nbroker_user = "{name}"\n'
        f'broker_password_file = "{file}"\nproxy = "{wall}"\n'
    )


def _no_command_shows_a_secret(
    site: Any, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Whatever they read, and whether they succeed; none is known as secret yet."""
    run, device = str(site.run), str(site.settings("pi-1"))
    said = {}
    for program, line in (
        (coordinator.cli, ("doctor", run)),
        (coordinator.cli, ("doctor", run, "--json")),
        (coordinator.cli, ("status", run, "--json")),
        (coordinator.cli, ("devices", run, "--json")),
        (coordinator.cli, ("logs", run)),
        (coordinator.cli, ("report", run)),
        (coordinator.cli, ("prove", run)),
        (coordinator.cli, ("policy", run, "--for", "mosquitto")),
        (coordinator.cli, ("deliver", run, run)),
        (edge_sdk.cli, ("doctor", device)),
        (edge_sdk.cli, ("doctor", device, "--json")),
    ):
        monkeypatch.setattr(secrets, "_hidden", set())
        monkeypatch.setattr("sys.argv", [program.__name__, *line])
        with pytest.raises(SystemExit):
            program.main()
        told = capfd.readouterr()
        said[line] = told.out + told.err
        assert "Traceback" not in said[line]
    assert "broker" in said["doctor", run]
    assert "the broker's certificate" in said["doctor", device]
    for line, text in said.items():
        found = [s for s in (PASSWORD, QUOTED, WALL) if s in text]
        assert not found, f"{line} shows a secret"


def _is_said_to_be_revoked(site: Any) -> None:
    facts = json.loads(site.coordinator("status", site.run, "--json"))
    stood = {d["name"]: (d["phase"], d["online"]) for d in facts["devices"]}
    assert stood["pi-2"] == ("revoked", False)
    assert stood["pi-1"][1] is False  # nobody hears whether it is there
    verdicts = {r["verdict"] for r in facts["refusals"] if r["device"] == "pi-2"}
    assert "malformed" not in verdicts


def _kept_for_one_user_and_without_secrets(site: Any) -> None:
    """Nobody else can read what was written; no secret lies where it has no home."""
    folders = site.run, site.folder / "pi-1", site.folder / "pi-2"
    assert open_to_others(site.run) == []
    for own_folder in folders[1:]:
        assert open_to_others(own_folder / "identity", own_folder / "state") == []
        assert stat.S_IMODE((own_folder / "device.toml").stat().st_mode) == 0o600
    secrets = {
        "the broker's password": PASSWORD.encode(),
        "the password as in a URL": QUOTED.encode(),
        "the proxy's password": WALL.encode(),
        "the page's token": (site.run / "page.token").read_bytes(),
        **{f"the token of {n}": t.encode() for n, t in site.given.items()},
        **{f"key {n}": key for n, key in enumerate(private_keys(*folders))},
    }
    homes = ("run.toml", "device.toml", "page.token", "device.pem", "identity.sqlite",
             "models.key.pem")  # fmt: skip
    assert len(secrets) >= 7
    logs = [site.folder / f"{name}.log" for name in ("coordinator", "pi-1", "pi-2")]
    assert leaks(folders, secrets, homes) == []
    for log in logs:
        assert not any(secret in log.read_bytes() for secret in secrets.values())
