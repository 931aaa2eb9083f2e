"""`flash-coordinator`: the command that operates a fleet."""

from __future__ import annotations

import typer

from coordinator.commands import deliver, plan, report, track
from coordinator.commands import enroll as admit
from coordinator.commands import maintain as tend
from coordinator.commands import run as start
from coordinator.commands import simulate as play
from coordinator.commands import status as look
from edge_sdk.terminal import add, exit_codes, in_utf8

__all__ = ["app", "main"]

app = typer.Typer(
    help="Run a federation: warm-up, rounds, one sparse model per density.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


@app.callback()
def _root() -> None:
    """Run a federation: warm-up, rounds, one sparse model per density."""


add(app, start.init)
add(app, start.run)
add(app, start.resume)
add(app, admit.enroll)
add(app, admit.revoke)
add(app, admit.rotate)
add(app, deliver.deliver)
add(app, look.status)
add(app, look.devices)
add(app, look.rounds)
add(app, tend.logs)
add(app, tend.stop)
add(app, tend.doctor)
add(app, look.page)
add(app, report.report)
add(app, track.track)
add(app, plan.plan)
add(app, play.demo)
add(app, play.simulate)
add(app, play.plot)
add(app, exit_codes)


def main() -> None:
    """Entry point of the console script."""
    in_utf8()
    app()


if __name__ == "__main__":
    main()
