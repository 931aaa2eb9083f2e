"""Every error has a remedy, a place in the tree and a heading in docs/errors.md."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

from coordinator.cli import app as coordinator
from edge_sdk import errors
from edge_sdk.cli import app as device
from edge_sdk.errors import EdgeError, EngineError, two_sentences
from export.cli import app as exporter

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "errors.md"
PACKAGES = ("edge_sdk", "coordinator", "export", "device_profiles")
COMMANDS = {
    name: typer.main.get_command(app).commands  # type: ignore[attr-defined]
    for name, app in (
        ("flash-coordinator", coordinator),
        ("flash-edge", device),
        ("flash-export", exporter),
    )
}
# A command line in a text follows a colon; it ends with the sentence.
LINE = re.compile(r": (flash-(?:coordinator|edge|export)) ([a-z-]+)((?: [^ ]+)*)")


def texts(source: str) -> Iterator[str]:
    """Each string of a source as a person reads it; X stands for what is put in."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value
        elif isinstance(node, ast.JoinedStr):
            parts = [getattr(part, "value", "X") for part in node.values]
            yield "".join(p if isinstance(p, str) else "X" for p in parts)


def unknown(text: str) -> list[str]:
    """Commands and options of a text's command lines that there are not."""
    found = []
    for program, command, rest in LINE.findall(text):
        known = COMMANDS[program].get(command)
        if known is None:
            found.append(f"{program} {command}")
            continue
        options = {o for p in known.params for o in (*p.opts, *p.secondary_opts)}
        said = re.findall(r"(?<= )--[a-z][a-z-]*", rest.partition(". ")[0])
        found += [f"{program} {command} {o}" for o in said if o not in options]
    return found


def test_commands_that_a_message_names_exist_with_their_options() -> None:
    assert unknown("Let it in: flash-coordinator invite.") == [
        "flash-coordinator invite"
    ]
    assert unknown("Go on: flash-coordinator extend X --more 2.") == [
        "flash-coordinator extend --more"
    ]
    files = [p for name in PACKAGES for p in sorted((ROOT / name).rglob("*.py"))]
    named = {
        f"{path.relative_to(ROOT)}: {what}"
        for path in files
        for text in texts(path.read_text(encoding="utf-8"))
        for what in unknown(text)
    }
    assert named == set()


def tree(kind: type[EdgeError]) -> list[type[EdgeError]]:
    return [kind, *(k for child in kind.__subclasses__() for k in tree(child))]


# Private subclasses of other rooms are not for people to look up.
KINDS = [k for k in tree(EdgeError) if k.__module__ == errors.__name__]


@pytest.mark.parametrize("kind", KINDS, ids=lambda k: k.__name__)
def test_every_error_has_a_remedy_that_is_a_sentence(kind: type[EdgeError]) -> None:
    error = kind("what happened")
    assert str(error) == "what happened"
    assert error.help == kind.remedy
    assert re.fullmatch(r"[A-Z].{15,}\.", error.help)
    assert kind("x", remedy="Do this.").help == "Do this."
    assert kind.__doc__


@pytest.mark.parametrize("kind", KINDS, ids=lambda k: k.__name__)
def test_every_error_is_in_the_drawing_and_in_all(kind: type[EdgeError]) -> None:
    assert errors.__doc__ is not None
    assert re.search(rf"\b{kind.__name__}\b", errors.__doc__)
    assert kind.__name__ in errors.__all__


def test_the_page_has_one_heading_per_error_in_the_trees_order() -> None:
    headings = re.findall(r"^## (\w+)$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert headings == [k.__name__ for k in KINDS]


@pytest.mark.parametrize("kind", KINDS, ids=lambda k: k.__name__)
def test_the_page_gives_each_remedy(kind: type[EdgeError]) -> None:
    text = PAGE.read_text(encoding="utf-8")
    part = text.split(f"\n## {kind.__name__}\n")[1].split("\n## ")[0]
    assert " ".join(kind.remedy.split()) in " ".join(part.split())


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (EngineError("no kernel", remedy="Build it."), "no kernel. Build it."),
        (EngineError("no kernel.", remedy="Build it."), "no kernel. Build it."),
        (EngineError("no kernel? ", remedy="Build it."), "no kernel? Build it."),
    ],
)
def test_an_error_and_its_remedy_are_two_sentences(error: EdgeError, said: str) -> None:
    assert two_sentences(error, error.help) == said


def test_no_text_runs_an_error_and_its_remedy_together() -> None:
    packages = [PAGE.parents[1] / name for name in ("edge_sdk", "coordinator")]
    files = [file for package in packages for file in package.rglob("*.py")]
    joined = re.compile(r'f"\{error\} \{error\.help\}"')
    assert len(files) > 100
    assert [str(f) for f in files if joined.search(f.read_text("utf-8"))] == []
