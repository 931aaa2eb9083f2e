"""A page's shell blocks, what CI does with each, and the page as one bash script.

The line above a block says it, in a comment that no reader sees:

    <!-- ci: run -->             in order, in one folder per page, with exit code 0
    <!-- ci: run in time -->     each command again until it succeeds, for a minute
    <!-- ci: run when done -->   once the coordinator of an earlier block has ended
    <!-- ci: tests/a.py::test_b -->   that test runs it
    <!-- ci: not run: board -->  and a reason of `REASONS`
    <!-- ci: file my.toml -->    above a block of another language: its text as a file

`<!-- ci: with A=B C=D -->` replaces words of the page's commands from there on, and
`<!-- ci: first` with lines of bash up to `-->` prepares what a reader has.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["REASONS", "Block", "blocks_of", "runs", "script_of", "trouble"]

REASONS = {
    "board": "a board is at the other end",
    "machine": "it is for another machine",
    "root": "it changes the system that it runs on",
    "minutes": "it takes minutes",
    "hours": "it takes hours",
}
SHELLS = ("sh", "bash", "console", "shell")
FENCE = re.compile(
    r"<!-- ci: (?P<mark>.*?)\s*-->"
    r"|^(?P<indent> *)```(?P<kind>\w*)[^\n]*\n(?P<text>.*?)^ *```",
    re.MULTILINE | re.DOTALL,
)
# What does not end by itself goes on beside the commands after it.
STAYS = re.compile(
    r"flash-edge run |flash-coordinator (run|resume|page) (?!.*--address)"
    r"|.* --(follow|live)( |$)"
)
PRELUDE = r"""
set -eE -o pipefail
beside() {
  "$@" >"$LOGS/${#jobs[@]}.log" 2>&1 &
  jobs+=($!)
  case "$1 $2" in "flash-coordinator run"|"flash-coordinator resume") runs+=($!);; esac
}
when_done() { for job in "${runs[@]}"; do wait "$job"; done; }
in_time() {
  for _ in $(seq 40); do
    if "$@"; then return; fi
    [ ${#runs[@]} = 0 ] || kill -0 "${runs[-1]}"  # in vain without its coordinator
    sleep 2
  done
  "$@"
}
token() { grep -oE "^$1  fe1_[A-Za-z0-9_-]+" "$LOGS/said" | tail -n 1 | cut -d" " -f3; }
pip() { echo "a wheel's installation is tests/test_wheel.py: pip $*"; }
jobs=() runs=()
trap 'for job in "${jobs[@]}"; do kill "$job" || true; done' EXIT
PS4='+ '
set -x
"""
END = r"""
for job in "${jobs[@]}"; do kill "$job" || true; done
for job in "${jobs[@]}"; do wait "$job" || [ $? = 143 ]; done  # by that signal
trap - EXIT
"""


@dataclass(frozen=True)
class Block:
    """A fenced block, or a comment for CI that stands alone.

    Attributes:
        line: Of the page, counted from 1.
        kind: The fence's language; empty for a comment.
        text: What is in the fence.
        mark: What the comment above it says; empty without one.
    """

    line: int
    kind: str
    text: str
    mark: str


def blocks_of(page: str) -> Iterator[Block]:
    """All of a page's, in order."""
    mark, end = "", 0
    for found in FENCE.finditer(page):
        line = page.count("\n", 0, found.start()) + 1
        if (said := found["mark"]) is not None:
            if said.startswith(("with ", "first\n")):
                yield Block(line, "", "", said)
            else:
                mark, end = said, found.end()
            continue
        own = mark if not page[end : found.start()].strip() else ""
        text = re.sub(rf"^{found['indent']}", "", found["text"], flags=re.MULTILINE)
        yield Block(line, found["kind"], text, own)
        mark = ""


def trouble(block: Block) -> str | None:
    """What is wrong with a block's mark; None if it says what CI does with it."""
    mark, shell = block.mark, block.kind in SHELLS
    if not block.kind and not mark and re.search(r"^flash-", block.text, re.MULTILINE):
        return "a block of commands says so: ```sh"
    tested = re.fullmatch(r"(tests/[\w/]+\.py(::\w+)?(, )?)+|\.ci/run", mark)
    if not shell:
        known = not mark or mark.startswith(("file ", "with ", "first"))
        return None if known or tested else mark
    if mark.startswith("not run: "):
        reason = mark.removeprefix("not run: ")
        return None if reason in REASONS else f"{reason} is no reason"
    if mark in ("run", "run in time", "run when done"):
        return None
    if tested:
        return None
    return f"the mark {mark!r} is none" if mark else "no mark above it"


def runs(blocks: Sequence[Block]) -> bool:
    """Whether any of them is run here."""
    return any(b.mark.startswith("run") and b.kind in SHELLS for b in blocks)


def commands_of(text: str) -> list[str]:
    """A block's commands, each in one line."""
    lines = text.replace("\\\n", " ").splitlines()
    return [x.strip() for x in lines if x.strip() and not x.startswith("#")]


def script_of(blocks: Sequence[Block], folder: Path) -> str:
    """A page as one script of bash; files of it are written into `folder`."""
    lines, names = [PRELUDE], {}
    for block in blocks:
        if block.mark.startswith("with "):
            names |= dict(w.split("=", 1) for w in shlex.split(block.mark[5:]))
        elif block.mark.startswith("first\n"):
            lines.append(block.mark.removeprefix("first\n"))
        elif block.mark.startswith("file "):
            (folder / block.mark[5:]).write_text(_named(block.text, names))
        elif block.mark.startswith("run") and block.kind in SHELLS:
            how = block.mark.removeprefix("run").strip()
            lines.append(f": line {block.line}")
            lines += ["when_done"] if how == "when done" else []
            lines += [_line(c, how, names) for c in commands_of(block.text)]
    return "\n".join([*lines, END])


def _line(command: str, how: str, names: dict[str, str]) -> str:
    command = _named(command, names)
    if STAYS.match(command):
        return f"beside {command}"
    return f"in_time {command}" if how == "in time" else command


def _named(text: str, names: dict[str, str]) -> str:
    for here, there in names.items():
        literal = there.replace("\\", r"\\")
        text = re.sub(rf"(?<![\w./-]){re.escape(here)}(?!\w)", literal, text)
    return text
