"""`flash-coordinator`: the command that operates a fleet."""

from __future__ import annotations

import typer

from coordinator.commands import (
    deliver,
    enroll,
    maintain,
    plan,
    policy,
    prove,
    report,
    run,
    simulate,
    status,
    track,
)
from edge_sdk.terminal import add, exit_codes, run_program

__all__ = ["app", "main"]

app = typer.Typer(
    help="Run a federation: warm-up, rounds, one sparse model per density.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


for command in (
    *(run.init, run.run, run.resume, enroll.enroll, enroll.revoke, enroll.rotate),
    *(deliver.deliver, status.status, status.devices, status.rounds),
    *(maintain.extend, maintain.logs, maintain.stop, maintain.doctor, status.page),
    *(report.report, prove.prove, prove.verify, track.track, plan.plan, policy.policy),
    *(simulate.demo, simulate.simulate, simulate.plot, exit_codes),
):
    add(app, command)


def main() -> None:
    """Entry point of the console script."""
    run_program(app)


if __name__ == "__main__":
    main()
