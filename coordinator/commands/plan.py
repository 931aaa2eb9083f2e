"""Command that predicts what a fleet could do, before there is one."""

from __future__ import annotations

import dataclasses
from typing import Annotated

import typer

from coordinator.commands import complete
from coordinator.densities import DEFAULT_ROUND_BUDGET_S
from device_profiles import boards, load_board
from edge_sdk.terminal import Json, show, width

__all__ = ["plan"]


def plan(
    task: Annotated[
        str,
        typer.Option(
            help="A shipped task or module:object.", autocompletion=complete.tasks
        ),
    ],
    board: Annotated[
        list[str] | None,
        typer.Option(
            help="A board; repeat for more. Default: all.",
            autocompletion=complete.board_names,
        ),
    ] = None,
    density: Annotated[
        list[float] | None, typer.Option(help="A density; repeat for more.")
    ] = None,
    algorithm: Annotated[
        str,
        typer.Option(
            help="An algorithm's name or module:object: it says which networks a "
            "batch goes through.",
            autocompletion=complete.algorithms,
        ),
    ] = "flash-edge",
    examples: Annotated[int, typer.Option(help="Examples per device.", min=1)] = 1000,
    round_budget_s: Annotated[
        float, typer.Option(help="Seconds a device's part of a round may take.")
    ] = DEFAULT_ROUND_BUDGET_S,
    rounds_per_day: Annotated[float, typer.Option(help="Rounds per day.")] = 24.0,
    as_json: Json = False,
) -> None:
    """Predict density, time and bytes a month of boards that you do not have yet."""
    from coordinator.algorithms.load import load_algorithm  # noqa: PLC0415
    from coordinator.algorithms.passes import passes_of  # noqa: PLC0415
    from coordinator.operations.planning import plan_fleet, plan_table  # noqa: PLC0415
    from edge_sdk.sparse import check_ladder  # noqa: PLC0415
    from edge_sdk.tasks.cost import workload_of  # noqa: PLC0415 - imports torch
    from edge_sdk.tasks.layers import layers_of, make_model  # noqa: PLC0415
    from edge_sdk.tasks.task import load_task  # noqa: PLC0415

    found, ladder = load_task(task), density or (0.05, 0.1, 0.2)
    check_ladder(layers_of(make_model(found, 0), found.dense_layers), ladder)
    work = dataclasses.replace(
        workload_of(found, examples=examples, epochs=1, batch=found.batch_size),
        batch_passes=passes_of(load_algorithm(algorithm), ladder),
    )
    plan = plan_fleet(
        {name: load_board(name) for name in board or boards()},
        work,
        ladder,
        round_budget_s,
        rounds_per_day=rounds_per_day,
    )
    show(dataclasses.asdict(plan), lambda: plan_table(plan, width()), as_json=as_json)
