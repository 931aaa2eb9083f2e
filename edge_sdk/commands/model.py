"""Exported models on this board: answers from one, and the two slots."""

from __future__ import annotations

import dataclasses
import shlex
from pathlib import Path
from typing import Annotated

import typer

from edge_sdk.commands.options import Key, public_key
from edge_sdk.json_text import to_json
from edge_sdk.terminal import Json, show, tell
from edge_sdk.terminal.utf8 import echo

__all__ = ["infer", "rollback", "status", "switch"]

Root = Annotated[Path, typer.Argument(help="Folder of the two slots.")]


def infer(
    folder: Annotated[Path, typer.Argument(metavar="BUNDLE", help="A bundle.")],
    given: Annotated[Path, typer.Option("--input", help="A .npy, .npz or image file.")],
    threads: Annotated[
        int, typer.Option(help="Threads for the model.", min=1, max=256)
    ] = 1,
    key: Key = None,
    as_json: Json = False,
) -> None:
    """Print what each example's outputs say; with --json all of them, a list each.

    A class and its output, the labels that hold, the shares of a map, or the values.
    """
    from edge_sdk.infer import Bundle  # noqa: PLC0415 - may compile the runtime
    from edge_sdk.infer.answers import Meaning, answer  # noqa: PLC0415
    from edge_sdk.infer.prepare import read_examples  # noqa: PLC0415

    model = Bundle(folder, threads=threads, trusted=public_key(key))
    meaning = Meaning.of(model.manifest, model.labels)
    for outputs in model.predict(read_examples(given, model.preparation)):
        if as_json:
            echo(to_json(outputs.tolist()), json=True)
            continue
        echo(answer(outputs, meaning, model.labels))


def status(root: Root, as_json: Json = False) -> None:
    """Say which model is live and which one waits."""
    from edge_sdk.deploy.slots import look  # noqa: PLC0415

    slots = look(root)
    lines = [
        f"{name}: {task}{' (live)' if name == slots.live else ''}"
        for name, task in slots.tasks.items()
    ]
    told = "\n".join(lines) or f"{root} holds no model"
    show(dataclasses.asdict(slots), lambda: told, as_json=as_json)


def switch(
    root: Root,
    folder: Annotated[Path, typer.Argument(metavar="BUNDLE", help="The next model.")],
    health: Annotated[
        str,
        typer.Option(
            help="Command run after the switch; if it fails, the switch is undone."
        ),
    ] = "",
    key: Key = None,
    as_json: Json = False,
) -> None:
    """Check BUNDLE on this board and make it live, or leave all as it was."""
    from edge_sdk.deploy.slots import switch  # noqa: PLC0415

    slot = switch(root, folder, trusted=public_key(key), health=shlex.split(health))
    _tell(root, slot, as_json=as_json)


def rollback(root: Root, as_json: Json = False) -> None:
    """Make the model before this one live again."""
    from edge_sdk.deploy.slots import roll_back  # noqa: PLC0415

    _tell(root, roll_back(root), as_json=as_json)


def _tell(root: Path, slot: str, *, as_json: bool) -> None:
    tell({"live": slot}, f"live: {root / 'current'} -> {slot}", as_json=as_json)
