"""The commands that documents show, and whether the project knows them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tomllib
import typer

from coordinator.cli import app as coordinator
from edge_sdk.cli import app as device
from export.cli import app as exporter

ROOT = Path(__file__).parents[2]
COMMANDS = {
    "flash-edge": typer.main.get_command(device),
    "flash-coordinator": typer.main.get_command(coordinator),
    "flash-export": typer.main.get_command(exporter),
}
# Of other projects: what they take is theirs to say.
FOREIGN = {
    *(".", "apt-get", "openssl", "podman", "ssh", "git", "cd", "cc", "systemctl", "sh")
}
BLOCK = re.compile(r"^ *```(\w*)[^\n]*\n(.*?)^ *```", re.M | re.S)
SHELLS = ("sh", "bash")
OURS = re.compile(r"(flash-(edge|coordinator|export)|make|python) ")
INDENTED = re.compile(
    r"^    ((?:flash-(?:edge|coordinator|export)|make|python) .*)$", re.M
)
INLINE = re.compile(r"`((?:flash-(?:edge|coordinator|export)|make|python) [^`|<\n]+)`")


def documents() -> list[Path]:
    """What people read; the records of decisions are history, the changelog too."""
    pages = [*(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").glob("*/README.md")]
    kept = [path for path in pages if "adr" not in path.parts]
    return sorted([*kept, ROOT / "README.md", ROOT / "CONTRIBUTING.md"])


def shown(text: str) -> Iterator[str]:
    """Every command of a document: in blocks, indented, and in a line of text."""
    for kind, block in BLOCK.findall(text):
        for line in block.replace("\\\n", " ").splitlines():
            if (kind in SHELLS and line.strip() and not line.startswith("#")) or (
                not kind and OURS.match(line)
            ):
                yield line.strip()
    yield from INDENTED.findall(text)
    yield from INLINE.findall(BLOCK.sub("", text))


def made(text: str) -> frozenset[str]:
    """Files that a document shows in whole, for its own commands (see `pages`)."""
    return frozenset(re.findall(r"<!-- ci: file (\S+) -->", text))


def trouble(line: str, folder: Path, own: frozenset[str] = frozenset()) -> str | None:
    """What is wrong with a command line; None if the project knows all of it.

    Args:
        line: The command.
        folder: The document's.
        own: Files that the document shows itself.
    """
    words = shlex.split(line, comments=True)
    while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
        words = words[1:]
    for end in ("|", "&&", ";"):
        words = words[: words.index(end)] if end in words else words
    if not words or words[0] in FOREIGN:
        return None
    name, arguments = words[0].removeprefix(".venv/bin/"), words[1:]
    if name in COMMANDS:
        return _of_ours(COMMANDS[name], [], arguments)
    if name == "make":
        return _made(arguments, folder)
    if name == "pip":
        return _installed(arguments)
    if name in ("python", "pytest"):
        return _paths([word for word in arguments if word not in own], folder)
    return None if name.startswith("./") else f"{words[0]} is none of the project's"


def _of_ours(command: Any, before: list[str], words: list[str]) -> str | None:
    """Follows sub-commands, then looks at every option and counts the arguments."""
    if hasattr(command, "commands"):
        if not words or words[0] not in command.commands:
            known = ", ".join(command.commands)
            return f"{' '.join([*before, *words[:1]])} is none of {known}"
        rest = words[1:]
        return _of_ours(command.commands[words[0]], [*before, words[0]], rest)
    options = {
        flag: parameter
        for parameter in command.params
        if parameter.param_type_name == "option"
        for flag in (*parameter.opts, *parameter.secondary_opts)
    }
    room = sum(
        1 if p.nargs == 1 else 99
        for p in command.params
        if p.param_type_name == "argument"
    )
    while words:
        word, words = words[0], words[1:]
        flag, _, value = word.partition("=")
        if flag == "--help":
            return None
        if flag.startswith("--"):
            if flag not in options:
                return f"{' '.join(before)} has no option {flag}"
            if not options[flag].is_flag and not value:
                if not words:
                    return f"{' '.join(before)} {flag} lacks its value"
                words = words[1:]
        else:
            room -= 1
    return f"{' '.join(before)} does not take so many arguments" if room < 0 else None


def _made(targets: list[str], folder: Path) -> str | None:
    own = folder / "Makefile"
    makefile = (own if own.exists() else ROOT / "Makefile").read_text(encoding="utf-8")
    for target in targets:
        if not re.search(rf"^{re.escape(target)}:", makefile, re.M):
            return f"make knows no {target}"
    return None


def _installed(words: list[str]) -> str | None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    extras = set(project["project"]["optional-dependencies"])
    asked = re.findall(r"(?:flash-edge|\.)\[([\w,-]+)\]", " ".join(words))
    unknown = {e for found in asked for e in found.split(",")} - extras
    return f"there is no extra {', '.join(sorted(unknown))}" if unknown else None


def _paths(words: list[str], folder: Path) -> str | None:
    """Scripts and tests that are named must be there."""
    for word in words:
        path = word.partition("::")[0]
        if re.fullmatch(r"[\w./-]+(\.py|/)|tests/[\w./]+", path) and not (
            (ROOT / path).exists() or (folder / path).exists()
        ):
            return f"{path} does not exist"
    return None
