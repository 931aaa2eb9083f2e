"""`flash-edge`: the command that a device runs."""

from __future__ import annotations

import typer

from edge_sdk.commands import agent, board, install, model, verify
from edge_sdk.terminal import add, exit_codes, run_program

__all__ = ["app", "main"]

app = typer.Typer(
    help="Train a sparse model on this device, as part of a federation.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
service = typer.Typer(help="Run the agent as a systemd service.", no_args_is_help=True)
slots = typer.Typer(help="The two model slots of this board.", no_args_is_help=True)


add(app, agent.run)
add(app, board.enroll)
add(app, board.profile)
add(app, board.doctor)
add(app, install.bundle)
add(app, model.infer)
add(app, verify.verify)
add(app, board.list_boards, "boards")
add(app, exit_codes)
add(service, install.install)
add(service, install.show)
add(slots, model.status)
add(slots, model.switch)
add(slots, model.rollback)
app.add_typer(service, name="service")
app.add_typer(slots, name="model")


def main() -> None:
    """Entry point of the console script."""
    run_program(app)


if __name__ == "__main__":
    main()
