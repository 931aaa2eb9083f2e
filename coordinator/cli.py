"""`flash-coordinator`: the command that operates a fleet."""

from __future__ import annotations

import typer

from coordinator.commands import admit, look, plan, play, report, start, track
from edge_sdk.terminal import run_app

__all__ = ["app", "main"]

app = typer.Typer(
    help="Run a federation: warm-up, rounds, one sparse model per density.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.callback()
def _root() -> None:
    """Run a federation: warm-up, rounds, one sparse model per density."""


app.command()(start.init)
app.command()(start.run)
app.command()(start.resume)
app.command()(admit.enroll)
app.command()(admit.revoke)
app.command()(admit.rotate)
app.command()(look.status)
app.command()(look.page)
app.command()(report.report)
app.command()(track.track)
app.command()(plan.plan)
app.command()(play.demo)
app.command()(play.simulate)
app.command()(play.plot)


def main() -> None:
    """Entry point of the console script."""
    run_app(app)


if __name__ == "__main__":
    main()
