"""The tables of a folder of results: accuracy by density, and what stands out."""

from __future__ import annotations

import json
import statistics
from collections import defaultdict
from pathlib import Path
from typing import Any

from examples.reproduce.pairs import holm, interval, p_above, paired
from examples.unequal_fleets.judge import mean_over_devices
from examples.unequal_fleets.methods import WARM_UP

__all__ = ["tables"]

OURS = "flash-edge"
DEVICES = "mean over devices"
DEPLOYED = "mean, best by validation"
Found = dict[str, dict[int, dict[str, Any]]]  # method -> seed -> result


def tables(folder: Path, sets: list[str], methods: list[str]) -> str:
    """Markdown: per data set accuracy per density, then the paired differences."""
    lines = []
    for data in sets:
        found = _read(folder / "test" / data, methods)
        if found:
            lines += [f"## {data}", "", *_accuracy(found), "", *_paired(found), ""]
            lines += [*_warm_up(found), ""]
    return "\n".join(lines)


def _read(folder: Path, methods: list[str]) -> Found:
    found: Found = defaultdict(dict)
    for place in sorted(folder.glob("*.json")):
        result = json.loads(place.read_text())
        if result["method"] in methods:
            found[result["method"]][result["seed"]] = result
    return found


def _accuracy(found: Found) -> list[str]:
    head = "| method | rate, momentum | seeds | .05 | .1 | .2 | mean over devices | "
    head += "mean, best by validation | at home, mean / worst tenth | MB |"
    lines = [head, "|---|---|---|---|---|---|---|---|---|---|"]
    for method, runs in found.items():
        rates = {(r["rate"]["rate"], r["rate"]["momentum"]) for r in runs.values()}
        cells = [
            method,
            "; ".join(f"{rate:g}, {momentum:g}" for rate, momentum in sorted(rates)),
            str(len(runs)),
            *(_mean(_accuracies(runs, density)) for density in ("0.05", "0.1", "0.2")),
            _mean(_accuracies(runs, DEVICES)),
            _mean(_accuracies(runs, DEPLOYED)),
            " / ".join(
                f"{statistics.mean(r['at_home'][key] for r in runs.values()):.1f}"
                for key in ("mean", "worst tenth")
            ),
            f"{statistics.mean(r['bytes'] for r in runs.values()) / 1e6:.1f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _accuracies(runs: dict[int, dict[str, Any]], density: str) -> dict[int, float]:
    """Per seed, percent at a density, or in the mean over devices."""
    if density == DEVICES:
        return {s: r["devices"] for s, r in runs.items()}
    if density == DEPLOYED:
        return {s: _deployed(r) for s, r in runs.items()}
    return {
        s: r["accuracy"][density] for s, r in runs.items() if density in r["accuracy"]
    }


def _deployed(result: dict[str, Any]) -> float:
    """Mean over devices that deploy the best network which they can hold."""
    deployed = {float(d): value for d, value in result.get("deployed", {}).items()}
    return mean_over_devices(deployed) if deployed else float(result["devices"])


def _mean(by_seed: dict[int, float]) -> str:
    if not by_seed:
        return ""
    mean = f"{statistics.mean(by_seed.values()):.2f}"
    if len(by_seed) < 2:
        return mean
    return f"{mean} +- {statistics.stdev(by_seed.values()):.2f}"


def _paired(found: Found) -> list[str]:
    """What the issue at hand is: ours at each density against every equal fleet."""
    lines = [
        "| flash-edge, unequal | against | points [95 %] | p, Holm |",
        "|---|---|---|---|",
    ]
    if OURS not in found:
        return lines
    rows, p_values = [], []
    for density in ("0.05", "0.1", "0.2", DEVICES, DEPLOYED):
        ours = _accuracies(found[OURS], density)
        for method, runs in found.items():
            if method == OURS:
                continue
            theirs = _accuracies(runs, density) or _accuracies(runs, DEVICES)
            points = paired(ours, theirs)
            if len(points) < 2:
                continue
            what = density if density in (DEVICES, DEPLOYED) else f"at {density}"
            mean, low, high = interval(points)
            rows.append((what, method, f"{mean:+.2f} [{low:+.2f}, {high:+.2f}]"))
            p_values.append(p_above(ours, theirs))
    for row, p in zip(rows, holm(p_values), strict=True):
        lines.append(f"| {' | '.join(row)} | {p:.3f} |")
    return lines


def _warm_up(found: Found) -> list[str]:
    """Each row with a warm-up against the same without, where both are there."""
    lines = ["| with a warm-up | at | less without one [95 %] |", "|---|---|---|"]
    for name, without in WARM_UP.items():
        for density in ("0.05", "0.1", "0.2"):
            if {name, without.name} <= set(found):
                ours = _accuracies(found[name], density)
                points = paired(ours, _accuracies(found[without.name], density))
                if len(points) > 1:
                    mean, low, high = interval(points)
                    said = f"{mean:+.2f} [{low:+.2f}, {high:+.2f}]"
                    lines.append(f"| {name} | {density} | {said} |")
    return lines if len(lines) > 2 else []
