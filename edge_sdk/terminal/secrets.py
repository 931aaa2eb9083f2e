"""Secrets in text that is kept: a log line, an error, a report. They leave as ``***``.

What has a form of its own is known by it: an enrolment token, a URL's password, a
page's token in a query, a private key. What has none is told with `hide`.
"""

from __future__ import annotations

import getpass
import os
import re
import sys
from pathlib import Path

from edge_sdk.errors import SettingsError

__all__ = ["given_secret", "hide", "redacted"]

MARK = "***"
LEAST = 8  # characters of a secret that can be looked for without blotting out words
_hidden: set[str] = set()
_FORMS = (
    # An enrolment token, see edge_sdk.identity.token; whole or cut off.
    (re.compile(r"\bfe1_[A-Za-z0-9_-]{8,}"), f"fe1_{MARK}"),
    # user:password@ of a URL; a password may hold a slash or an at sign by mistake.
    (re.compile(r"(\b[a-z][a-z0-9+.-]*://[^\s:/@]*):[^\s]+@"), rf"\1:{MARK}@"),
    (re.compile(r"([?&]token=)[^\s&#\"']+"), rf"\1{MARK}"),
    (
        re.compile(
            r"(-----BEGIN [A-Z ]*PRIVATE KEY-----).*?"
            r"(-----END [A-Z ]*PRIVATE KEY-----|\Z)",
            re.DOTALL,
        ),
        rf"\1{MARK}\2",
    ),
)


def hide(secret: str | None) -> None:
    """Has a secret left out of every log line and error of this process from now on.

    Args:
        secret: A password or token; a short one cannot be told from other words.
    """
    if secret and len(secret) >= LEAST:
        _hidden.add(secret)


def redacted(text: str) -> str:
    """A text without the secrets in it.

    Example:
        >>> redacted("no link to mqtt://me:pass@host:1883/")
        'no link to mqtt://me:***@host:1883/'
        >>> redacted("open http://127.0.0.1:8484/?token=abc")
        'open http://127.0.0.1:8484/?token=***'
    """
    for form, mark in _FORMS:
        text = form.sub(mark, text)
    for secret in _hidden:
        text = text.replace(secret, MARK)
    return text


def given_secret(
    typed: str | None, *, file: Path | None = None, variable: str, what: str
) -> str:
    """A secret from wherever a person gave it; what is typed can be seen by others.

    A command line stands in the shell's history and in the list of processes; a file, a
    variable and standard input do not.

    Args:
        typed: From the command line; ``-`` asks for standard input.
        file: A file that holds it; ``-`` is standard input, too.
        variable: Of the environment, where neither is given.
        what: Its name for people.

    Raises:
        SettingsError: If it is given nowhere, twice, or cannot be read.
    """
    if typed and file is not None:
        raise SettingsError(
            f"the {what} is given both on the command line and by a file",
            remedy="Give it once.",
        )
    if typed == "-" or file == Path("-"):
        found = getpass.getpass(f"{what}: ") if sys.stdin.isatty() else sys.stdin.read()
    elif file is not None:
        found = _read(file, what)
    else:
        found = typed or os.environ.get(variable, "")
    if not found.strip():
        raise SettingsError(
            f"no {what} is given",
            remedy=f"Name a file with it, - for standard input, or set {variable}.",
        )
    return found.strip()


def _read(file: Path, what: str) -> str:
    try:
        return file.expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "it is not text"
        raise SettingsError(
            f"the {what} cannot be read from {file}: {why}",
            remedy="Name a text file that you can read, or - for standard input.",
        ) from error
