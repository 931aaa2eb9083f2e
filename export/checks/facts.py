"""Comparison of what a file says of itself with what exporting would write."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from edge_sdk.errors import ExportError
from export.checks.stamp import STAMP

__all__ = ["check_facts"]


def check_facts(
    path: Path, facts: Mapping[str, str], wanted: Mapping[str, str], whose: str
) -> None:
    """Compares what a file says of itself: names, labels, sizes, densities, inputs.

    Versions may be others, as those of another build of the same model are.
    """
    of_build = {"version", "torch"}
    for key in sorted((wanted.keys() | facts.keys()) - of_build - {STAMP}):
        if facts.get(key) == wanted.get(key):
            continue
        said = [repr(f[key])[:60] if key in f else "none" for f in (facts, wanted)]
        raise ExportError(
            f"{path} is not what exporting this {whose} gives: it has another "
            f"{key.replace('_', ' ')}, {said[0]} and not {said[1]}",
            remedy="Give the name, labels and examples that it was built with, or "
            "build it again.",
        )
