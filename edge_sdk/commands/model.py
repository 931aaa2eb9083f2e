"""Exported models on this board: answers from one, and the two slots."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Annotated

import typer

from edge_sdk.commands.options import Key, Verbose, public_key
from edge_sdk.terminal import set_up_logging

__all__ = ["infer", "rollback", "status", "switch"]

Root = Annotated[Path, typer.Argument(help="Folder of the two slots.")]


def infer(
    folder: Annotated[Path, typer.Argument(metavar="BUNDLE", help="A bundle.")],
    given: Annotated[Path, typer.Option("--input", help="A .npy, .npz or image file.")],
    threads: Annotated[int, typer.Option(min=1, max=256)] = 1,
    key: Key = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON list of outputs per example.")
    ] = False,
    verbose: Verbose = False,
) -> None:
    """Run a bundle's model on examples and print the largest output of each."""
    set_up_logging(verbose=verbose)
    from edge_sdk.infer import Bundle  # noqa: PLC0415 - may compile the runtime
    from edge_sdk.infer.prepare import read_examples  # noqa: PLC0415

    model = Bundle(folder, threads=threads, trusted=public_key(key))
    for outputs in model.predict(read_examples(given, model.preparation)):
        if as_json:
            typer.echo(json.dumps(outputs.tolist()))
            continue
        top = int(outputs.reshape(-1).argmax())
        label = model.labels[top] if top < len(model.labels) else str(top)
        typer.echo(f"{label}\t{outputs.reshape(-1)[top]:.6g}")


def status(root: Root) -> None:
    """Say which model is live and which one waits."""
    from edge_sdk.slots import look  # noqa: PLC0415

    slots = look(root)
    for name, task in slots.tasks.items():
        typer.echo(f"{name}: {task}{' (live)' if name == slots.live else ''}")
    if not slots.tasks:
        typer.echo(f"{root} holds no model")


def switch(
    root: Root,
    folder: Annotated[Path, typer.Argument(metavar="BUNDLE", help="The next model.")],
    health: Annotated[
        str, typer.Option(help="Command run after the switch; its failure undoes it.")
    ] = "",
    key: Key = None,
    verbose: Verbose = False,
) -> None:
    """Check BUNDLE on this board and make it live, or leave all as it was."""
    set_up_logging(verbose=verbose)
    from edge_sdk.slots import switch  # noqa: PLC0415

    slot = switch(root, folder, trusted=public_key(key), health=shlex.split(health))
    typer.echo(f"live: {root / 'current'} -> {slot}")


def rollback(root: Root, verbose: Verbose = False) -> None:
    """Make the model before this one live again."""
    set_up_logging(verbose=verbose)
    from edge_sdk.slots import roll_back  # noqa: PLC0415

    typer.echo(f"live: {root / 'current'} -> {roll_back(root)}")
