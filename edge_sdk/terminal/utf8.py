"""No locale, and text all the same: the process starts again in Python's UTF-8 mode.

With ``LC_ALL=C``, ``PYTHONUTF8=0`` and no coercion, as under some init systems, Python
takes names of files for ASCII: a folder named in any other script cannot be opened, and
printing its name is an error. Nothing that runs can change that any more.
"""

from __future__ import annotations

import os
import sys

import typer

from edge_sdk.child_process import start_again

__all__ = ["echo", "in_ascii", "in_utf8"]


def in_utf8() -> None:
    """Starts this program again in UTF-8 mode, where its file names are not UTF-8.

    What it prints stays ASCII then, as the terminal knows no more: other characters
    are shown as escapes.
    """
    encoding = sys.getfilesystemencoding().replace("-", "").lower()
    if encoding == "utf8" or os.environ.get("PYTHONUTF8") == "1":
        return
    os.environ["PYTHONUTF8"] = "1"
    os.environ.setdefault("PYTHONIOENCODING", "ascii:backslashreplace")
    start_again()


def echo(text: str, *, err: bool = False, json: bool = False, nl: bool = True) -> None:
    """Prints in the characters that the stream has; click takes ASCII for UTF-8.

    Args:
        text: A line or several.
        err: Whether to stderr.
        json: Whether it is JSON, whose escapes are other than Python's.
        nl: Whether an end of line follows.
    """
    stream = sys.stderr if err else sys.stdout
    if (stream.encoding or "").replace("-", "").lower() == "ascii":
        shown = text.encode("ascii", "backslashreplace").decode()
        text = in_ascii(text) if json else shown
    typer.echo(text, err=err, nl=nl)


def in_ascii(text: str) -> str:
    r"""JSON text in the characters of ASCII; it means the same.

    Example:
        >>> print(in_ascii('"b\u00fcro"'))
        "b\u00fcro"
    """
    if text.isascii():
        return text
    return "".join(c if c.isascii() else _escaped(c) for c in text)


def _escaped(character: str) -> str:
    """As JSON has it: in UTF-16."""
    units = character.encode("utf-16-be", "surrogatepass")
    return "".join(
        f"\\u{units[i]:02x}{units[i + 1]:02x}" for i in range(0, len(units), 2)
    )
