"""From a run's facts to the report: charts from its numbers, all of it as HTML."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from coordinator.report.charts import Curves, Point, Rows, curves
from coordinator.report.tables import percent, score, short, tables
from coordinator.units import human_bytes

__all__ = ["render"]

HERE = Path(__file__).parent
STYLE = HERE.parent / "dashboard" / "static" / "page.css"  # one look for both
TONES = 4  # shades of the style sheet


def render(facts: Mapping[str, Any]) -> str:
    """The report as one HTML document that needs nothing else.

    Args:
        facts: As `coordinator.report.write.gather` finds them.
    """
    environment = Environment(
        loader=FileSystemLoader(HERE),
        autoescape=True,  # what devices say is never markup
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    run, warm_up, last = facts["run"], facts["warm_up"], facts["last"]
    moved = [r["up_bytes"] + r["down_bytes"] for r in facts["rounds"]]
    scored = [r for r in facts["rounds"] if r["scores"]]
    return environment.get_template("report.html.jinja").render(
        run=run,
        state=facts["state"],
        style=STYLE.read_text(encoding="utf-8"),
        glance=[
            ("rounds done", f"{facts['rounds_done']} of {run['rounds']}"),
            ("devices", len(facts["devices"])),
            ("model bytes moved", human_bytes(sum(moved))),
            *(
                (f"at density {density}, round {scored[-1]['no']}", score(metrics))
                for density, metrics in (scored[-1]["scores"] if scored else {}).items()
            ),
        ],
        plots=[plot for plot in _plots(facts, moved) if plot is not None],
        kept=None if warm_up is None else _kept(warm_up),
        last=last,
        coverage=_coverage(last["coverage"]) if last else None,
        tables=tables(facts),
    )


def _plots(facts: Mapping[str, Any], moved: Sequence[int]) -> list[Curves | None]:
    rounds = facts["rounds"]
    is_accuracy = any(
        "accuracy" in m for r in rounds for m in (r["scores"] or {}).values()
    )
    metric = "accuracy" if is_accuracy else "loss"

    def lines(places: Sequence[float]) -> dict[str, list[Point]]:
        return {
            f"density {density:g}": [
                (float(place), r["scores"][str(density)][metric])
                for place, r in zip(places, rounds, strict=True)
                if metric in (r["scores"] or {}).get(str(density), {})
            ]
            for density in facts["run"]["densities"]
        }

    y = metric, percent if is_accuracy else short
    return [
        curves(
            f"{metric.capitalize()} by round",
            lines([r["no"] for r in rounds]),
            x=("round", short),
            y=y,
            whole=True,
        ),
        curves(
            f"{metric.capitalize()} by bytes",
            lines(list(accumulate(moved))),
            x=("updates and models moved", human_bytes),
            y=y,
        ),
    ]


def _kept(warm_up: Mapping[str, Any]) -> dict[str, Any]:
    """Kept share of each layer, a dot per density."""
    frame, densities = Rows(len(warm_up["layers"])), warm_up["densities"]
    rows = [
        (layer["name"], [frame.x(layer["kept"][d] / layer["size"]) for d in densities])
        for layer in warm_up["layers"]
    ]
    return {"frame": frame, "names": [f"density {d}" for d in densities], "rows": rows}


def _coverage(layers: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Share of each layer's weights by how many devices held them: x, width, shade."""
    if not layers:
        return None
    frame = Rows(len(layers))
    most = max(devices for layer in layers for devices, _ in layer["held"])
    rows = []
    for layer in layers:
        until = accumulate((n for _, n in layer["held"]), initial=0)
        places = [frame.x(weights / layer["size"]) for weights in until]
        looks = [
            f"d{max(1, round(TONES * d / most))}" if d else "none"
            for d, _ in layer["held"]
        ]
        pieces = [
            (x, round(end - x, 1), look)
            for (x, end), look in zip(pairwise(places), looks, strict=True)
        ]
        rows.append((layer["name"], pieces))
    return {"frame": frame, "rows": rows}
