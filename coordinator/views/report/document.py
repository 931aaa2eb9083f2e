"""From a run's facts to the report: figures, tables, scripts, all of it as HTML."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from coordinator.views.device_scores import tests_text
from coordinator.views.report.charts import figures
from coordinator.views.report.facts import ReportFacts
from coordinator.views.report.tables import tables
from coordinator.views.run_view import RunView
from coordinator.views.scores import percent, value_text
from coordinator.views.units import human_bytes
from edge_sdk.json_text import to_json

__all__ = ["render"]

HERE = Path(__file__).parent
STATIC = HERE.parent / "page" / "static"  # one look and one script for both
STYLES = ("vendor/uPlot.min.css", "page.css")
# What each script of the report is made of; the last is a module.
SCRIPTS = (
    ("theme.js",),
    ("vendor/uPlot.iife.min.js",),
    ("units.js", "charts.js", "report.js"),
)
LICENSE = "vendor/uPlot.LICENSE"  # goes wherever the library goes
FEW = 3  # densities that are all at a glance
FOLDED = 20  # rows of a table from which on it is folded up


def render(facts: ReportFacts) -> str:
    """The report as one HTML document that needs nothing else.

    Args:
        facts: As `coordinator.views.report.facts.gather` finds them.
    """
    environment = Environment(
        loader=FileSystemLoader(HERE),
        autoescape=True,  # what devices say is never markup
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    scripts = ["\n".join(_static(name) for name in names) for names in SCRIPTS]
    shown = figures(facts.run)
    drawn = [figure for figure in shown if not figure.is_empty]
    return environment.get_template("report.html.jinja").render(
        run=facts.run.run,
        state=facts.run.state,
        style="\n".join(_static(name) for name in STYLES),
        scripts=scripts,
        digests=[_digest(script) for script in scripts],
        license=_static(LICENSE).strip(),
        specs=_in_script(to_json([figure.spec for figure in drawn])),
        glance=_glance(facts.run),
        figures=[
            (figure, drawn.index(figure) if figure in drawn else None)
            for figure in shown
        ],
        tables=tables(facts),
        folded=FOLDED,
    )


def _glance(view: RunView) -> list[tuple[str, str, str]]:
    """Facts at the head of the report: name, value, remark."""
    metric, savings, part = view.metric, view.savings, view.participation
    scored = view.last_scored
    found = [
        (
            f"{metric.words} at density {density}",
            value_text(metrics.get(metric.name), is_share=metric.is_share),
            f"after {scored.name}",
        )
        for density, metrics in _ends((scored and scored.scores) or {})
        if scored
    ]
    tested = next((r for r in reversed(view.rounds) if r.on_devices), None)
    for density, tests in _ends((tested and tested.on_devices) or {}):
        worst = value_text(tests.worst_tenth, is_share=metric.is_share)
        name = f"{metric.words} of the worst tenth of devices at density {density}"
        found.append((name, worst, tests_text(tests, metric)))
    wanted = f" of {view.run.rounds}" if view.run.rounds else ""
    found.append(("rounds done", f"{view.rounds_done}{wanted}", ""))
    if (spent := view.privacy) is not None:
        told = "no bound" if spent.epsilon is None else f"{spent.epsilon:.3g}"
        found.append(("epsilon", told, spent.remark))
    if savings is not None:
        moved = human_bytes(savings.bytes)
        remark = f"{moved}, not {human_bytes(savings.dense_bytes)}"
        at_least = "" if savings.is_whole else " at least"
        fewer = f"{_times(savings.times_fewer_bytes)} fewer"
        found.append(("bytes, compared with dense", fewer, remark + at_least))
        if savings.times_fewer_macs is not None:
            less = f"{_times(savings.times_fewer_macs)} less"
            found.append(
                (
                    "compute, compared with dense",
                    less,
                    "multiply-accumulates of training",
                )
            )
    if part.share is not None:
        trained = sum(d.trained > 0 for d in part.devices)
        remark = f"{trained} of {len(part.devices)} devices"
        found.append(("examples trained on", percent(part.share), remark))
    found.append(("devices", str(len(view.devices)), ""))
    for name, when in (
        ("began", view.began),
        ("ended", view.ended if view.is_done else None),
    ):
        if when is not None:
            at = datetime.fromisoformat(when)
            found.append((name, f"{at:%Y-%m-%d}", f"{at:%H:%M:%S} UTC"))
    return found


def _ends(scores: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Scores by density, ascending; of many the first and the last."""
    found = sorted(scores.items(), key=lambda s: float(s[0]))
    return found if len(found) <= FEW else [found[0], found[-1]]


def _times(ratio: float) -> str:
    return f"{ratio:.0f}x" if ratio >= 10 else f"{ratio:.1f}x"


def _static(name: str) -> str:
    return (STATIC / name).read_text(encoding="utf-8")


def _digest(script: str) -> str:
    """Digest by which a content-security policy allows a script."""
    digest = hashlib.sha256(script.encode()).digest()
    return f"sha256-{base64.b64encode(digest).decode()}"


def _in_script(text: str) -> str:
    """JSON that ends no script element, whatever a name in it says."""
    return text.replace("<", "\\u003c").replace("&", "\\u0026")
