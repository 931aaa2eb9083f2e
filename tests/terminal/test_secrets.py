"""What is kept of secrets: nothing in logs and errors, and files for one user only."""

from __future__ import annotations

import io
import json
import logging
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_sdk.errors import BrokerError, SettingsError
from edge_sdk.identity.token import Token, write_token
from edge_sdk.private_files import keep_private
from edge_sdk.terminal import hide, plain, redacted
from edge_sdk.terminal.logs import JsonLines, TextLines
from edge_sdk.terminal.secrets import given_secret
from edge_sdk.transport.address import parse_url

TOKEN = write_token(Token("10.0.0.1", 8884, bytes(range(20)), bytes(range(16))))
PEM = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIA\n-----END PRIVATE KEY-----"


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        (f"flash-edge enroll {TOKEN}", TOKEN),
        (f"enroll {TOKEN[:40]}", TOKEN[:40]),
        ("mqtt://me:hunter22@host:1883", "hunter22"),
        ("mqtts://me:hun/t@er22@host", "hun/t@er22"),
        ("no link to mqtt://:hunter22@host", "hunter22"),
        ("GET /?token=hunter22&x=1", "hunter22"),
        (f"key {PEM} end", "MC4CAQAwBQYDK2VwBCIEIA"),
        (f"key {PEM[:50]}", "MC4CAQAwBQYDK2VwBCIEIA"),
    ],
)
def test_a_secret_is_known_by_its_form_wherever_it_is_logged(
    text: str, secret: str
) -> None:
    assert secret not in redacted(text)
    record = logging.makeLogRecord(
        {"msg": "%s", "args": (text,), "name": "coordinator"}
    )
    with pytest.raises(ValueError, match="base") as caught:
        int(text, base=99)
    error = ValueError(text)
    record.exc_info = ValueError, error, caught.tb
    for lines in (TextLines(), JsonLines()):
        said = lines.format(record)
        assert secret.splitlines()[0] not in said
        assert "***" in said


def test_a_secret_without_a_form_is_told_and_then_left_out() -> None:
    hide("correct horse battery")
    hide("pw")  # would blot out words that hold it
    assert redacted("it said: correct horse battery, pwd") == "it said: ***, pwd"


@given(st.text(max_size=50))
def test_what_has_no_secret_stays_as_it_is(text: str) -> None:
    assert redacted(f"round 7 of {text!a}") == f"round 7 of {text!a}"


def test_an_error_of_a_command_has_no_secret_in_it(tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text(
        'federation = "home"\ntask = "digits"\nevaluation = "e"\ndensities = [0.1]\n'
        'rounds = 1\nbroker = "mqtt://me:hun/ter22@127.0.0.1:1"\n'
    )
    done = subprocess.run(
        [sys.executable, "-m", "coordinator.cli", "run", tmp_path, "--verbose"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode not in (0, 70)
    assert "hun" not in done.stdout + done.stderr
    with pytest.raises(BrokerError) as caught:
        parse_url("mqtt://me:hun/ter22@127.0.0.1:1")
    assert "hun" not in str(caught.value)
    assert "%2F" in str(caught.value)


@pytest.mark.parametrize(
    "sign",
    ["\x1b", "\r", "\n", "\x7f", "\x9b", "\u202e", "\u2066", "\u200f", "\u061c",
     "\u2028", "\u2029", "\u200b", "\ufeff", "\U000e0041", "\ud800", "\x00", "\u0085"],
)  # fmt: skip
def test_signs_that_move_turn_or_hide_text_are_shown(sign: str) -> None:
    said = plain(f"pi{sign}1")
    assert said.isprintable()
    assert sign not in said
    assert said.startswith("pi\\")


@given(st.text())
def test_whatever_comes_is_one_printable_line_that_can_be_encoded(text: str) -> None:
    said = plain(text)
    assert len(said.splitlines()) <= 1
    assert said.encode("utf-8").decode("utf-8") == said
    assert plain(said) == said


def test_words_of_every_script_stay() -> None:
    for text in ("Größe 3 °C", "温度 36", "بطاقة", "à\u00a0propos"):
        assert plain(text) == text


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def umask() -> object:
    before = os.umask(0o022)
    yield
    os.umask(before)


def test_a_folder_that_was_open_is_shut_and_one_line_says_so(
    tmp_path: Path, umask: object, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "run"
    (folder / "blobs").mkdir(parents=True)
    for name in ("run.toml", "ledger.sqlite", "ledger.sqlite-wal", "blobs/ab", "mine"):
        (folder / name).write_text("x")
    outside = tmp_path / "outside"
    outside.write_text("x")
    (folder / "blobs" / "link").symlink_to(outside)
    keep_private(folder, ("run.toml", "ledger.sqlite*", "blobs"))
    assert mode(folder) == 0o700
    assert mode(folder / "blobs") == 0o700
    for name in ("run.toml", "ledger.sqlite", "ledger.sqlite-wal", "blobs/ab"):
        assert mode(folder / name) == 0o600
    assert mode(folder / "mine") == 0o644  # not ours, and the folder is shut
    assert mode(outside) == 0o644
    (line,) = caplog.messages
    assert "other users could read 6 files and folders of it" in line
    caplog.clear()
    keep_private(folder, ("run.toml", "ledger.sqlite*", "blobs"))
    assert caplog.messages == []
    (folder / "later").write_text("x")
    assert mode(folder / "later") == 0o600


def test_a_home_is_not_shut(
    tmp_path: Path, umask: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    tmp_path.chmod(0o755)
    keep_private(tmp_path, ("run.toml",))
    assert mode(tmp_path) == 0o755


def test_a_secret_comes_from_a_file_the_environment_or_standard_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def given(typed: str | None, file: Path | None = None) -> str:
        return given_secret(typed, file=file, variable="FLASH_EDGE_X", what="token")

    path = tmp_path / "token"
    path.write_text("from a file\n")
    monkeypatch.setattr(sys, "stdin", io.StringIO("from stdin\n"))
    assert given("typed") == "typed"
    assert given(None, path) == "from a file"
    assert given("-") == "from stdin"
    monkeypatch.setattr(sys, "stdin", io.StringIO("from stdin\n"))
    assert given(None, Path("-")) == "from stdin"
    monkeypatch.setenv("FLASH_EDGE_X", "from the environment")
    assert given(None) == "from the environment"
    monkeypatch.delenv("FLASH_EDGE_X")
    path.with_name("noise").write_bytes(b"\xff\xfe\x00")
    for typed, file in (
        (None, None),
        ("typed", path),
        (None, tmp_path / "missing"),
        (None, tmp_path),
        (None, path.with_name("noise")),
    ):
        with pytest.raises(SettingsError, match="token"):
            given(typed, file)


def test_a_token_by_standard_input_is_in_no_process_title(tmp_path: Path) -> None:
    for arguments in (["-"], ["--token-file", "-"], []):
        done = subprocess.run(
            [sys.executable, "-m", "edge_sdk.cli", "enroll", *arguments, "--folder",
             tmp_path / "pi-1", "--log-format", "json"],
            env=os.environ | ({} if arguments else {"FLASH_EDGE_TOKEN": "fe1_x"}),
            input="fe1_not-a-whole\n", capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 18
        said = json.loads(done.stderr.splitlines()[-1])
        assert "not a whole enrolment token" in said["message"]
