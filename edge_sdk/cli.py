"""`flash-edge`: the command that a device runs."""

from __future__ import annotations

import typer

from edge_sdk.commands import agent, board, install, model
from edge_sdk.terminal import run_app

__all__ = ["app", "main"]

app = typer.Typer(
    help="Train a sparse model on this device, as part of a federation.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
service = typer.Typer(help="Run the agent as a systemd service.", no_args_is_help=True)
slots = typer.Typer(help="The two model slots of this board.", no_args_is_help=True)


@app.callback()
def _root() -> None:
    """Train a sparse model on this device, as part of a federation."""


app.command()(agent.run)
app.command()(board.enroll)
app.command()(board.profile)
app.command()(board.doctor)
app.command()(install.bundle)
app.command()(model.infer)
app.command("boards")(board.list_boards)
service.command()(install.install)
service.command()(install.show)
slots.command()(model.status)
slots.command()(model.switch)
slots.command()(model.rollback)
app.add_typer(service, name="service")
app.add_typer(slots, name="model")


def main() -> None:
    """Entry point of the console script."""
    run_app(app)


if __name__ == "__main__":
    main()
