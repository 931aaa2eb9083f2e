"""The report's tables: cells as text, from a run's facts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from coordinator.dashboard.facts import flat
from coordinator.units import human_bytes

__all__ = ["Table", "percent", "score", "short", "tables"]

Facts = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Table:
    """One table.

    Attributes:
        title: Its heading.
        caption: What its rows are.
        columns: Name of each, and whether it holds numbers.
        rows: Cells as text.
        empty: What to say without rows.
    """

    title: str
    caption: str
    columns: tuple[tuple[str, bool], ...]
    rows: tuple[tuple[str, ...], ...]
    empty: str


def tables(facts: Facts) -> list[Table]:
    """All tables of a report, in order.

    Args:
        facts: As `coordinator.report.write.gather` finds them.
    """
    return [
        _rounds(facts),
        _devices(facts["devices"]),
        _participation(facts["participation"]),
        _refusals(facts["refusals"]),
        _layers(facts["warm_up"], facts["last"]),
        _files(facts["files"]),
        _configuration(facts),
    ]


def percent(share: float) -> str:
    """A share in [0, 1] in words.

    Example:
        >>> percent(0.9773)
        '97.73 %'
    """
    return f"{100 * share:.2f} %"


def short(value: float) -> str:
    """A number with few digits.

    Example:
        >>> short(0.123456)
        '0.1235'
    """
    return f"{value:.4g}"


def score(metrics: Mapping[str, float] | None) -> str:
    """What evaluation measured, in words.

    Example:
        >>> score({"accuracy": 0.9, "loss": 0.31}), score({"loss": 0.31}), score(None)
        ('90.00 %', 'loss 0.31', '-')
    """
    if not metrics:
        return "-"
    if "accuracy" in metrics:
        return percent(metrics["accuracy"])
    return f"loss {short(metrics['loss'])}"


def _rounds(facts: Facts) -> Table:
    densities = [str(d) for d in facts["run"]["densities"]]
    return _table(
        "Rounds",
        "Rounds, with the model's score at each density",
        ("round", "state", "#updates", "#time", "#updates' bytes", "#models' bytes"),
        *(f"#at {d}" for d in densities),
        "note",
        rows=(
            (
                r["no"] or "warm-up",
                r["phase"],
                f"{r['accepted']} of {r['goal']}",
                "-" if r["seconds"] is None else f"{r['seconds']:.1f} s",
                human_bytes(r["up_bytes"]),
                human_bytes(r["down_bytes"]),
                *(score((r["scores"] or {}).get(d)) for d in densities),
                r["note"],
            )
            for r in facts["rounds"]
        ),
        empty="No round has begun yet.",
    )


def _devices(devices: Sequence[Facts]) -> Table:
    return _table(
        "Devices",
        "Devices; bytes count since each was installed",
        ("device", "board", "#density", "engine", "#sent", "#received", "#memory"),
        *("#refused", "why this density", "waits or does less, because"),
        rows=(
            (
                d["name"],
                d["board"],
                "-" if d["density"] is None else d["density"],
                d["engine"] or "-",
                human_bytes(d["sent"]),
                human_bytes(d["received"]),
                f"{d['rss_mib']} MiB" if d["rss_mib"] else "-",
                d["refused"],
                d["why"],
                "; ".join(filter(None, (d["waits"], d["pace"]))),
            )
            for d in devices
        ),
        empty="No device has said hello yet.",
    )


def _participation(found: Facts) -> Table:
    share = "-" if found["share"] is None else percent(found["share"])
    return _table(
        "Participation",
        f"Rounds of each device; {share} of all examples have trained at least once",
        ("device", "#examples", "#asked", "#in the model", "#last in round", "note"),
        rows=(
            (
                d["name"],
                d["examples"],
                d["asked"],
                d["trained"],
                "-" if d["last"] is None else d["last"],
                f"{d['warning']}: {d['reason']}" if d["warning"] else d["sits_out"],
            )
            for d in found["devices"]
        ),
        empty="No device has said hello yet.",
    )


def _refusals(refusals: Sequence[Facts]) -> Table:
    return _table(
        "Refused updates",
        "By device and verdict",
        ("device", "verdict", "#times", "#last in round", "why"),
        rows=(
            (r["device"], r["verdict"], r["count"], r["round"], r["why"])
            for r in refusals
        ),
        empty="None.",
    )


def _layers(warm_up: Facts | None, last: Facts | None) -> Table:
    found = warm_up or {"densities": [], "measured": False, "layers": []}
    held = {c["name"]: c["held"] for c in (last or {}).get("coverage", ())}

    def cells(layer: Facts) -> Iterator[object]:
        name, size = layer["name"], layer["size"]
        yield from (name, size)
        if found["measured"]:
            kept = layer["measured"]
            yield "-" if kept is None else percent(kept / size)
        for kept in (layer["kept"][d] for d in found["densities"]):
            yield f"{kept} ({percent(kept / size)})"
        if held:
            yield ", ".join(f"{d}: {percent(n / size)}" for d, n in held.get(name, ()))

    return _table(
        "Layers",
        "Kept weights of each layer by density",
        ("layer", "#weights"),
        *(["#kept in the warm-up"] if found["measured"] else []),
        *(f"#kept at {d}" for d in found["densities"]),
        *(["devices: share they held in the last round"] if held else []),
        rows=(tuple(cells(layer)) for layer in found["layers"]),
        empty="The masks of this run are not drawn yet.",
    )


def _files(files: Sequence[Facts]) -> Table:
    return _table(
        "Files",
        "Models and exports with their digests",
        ("file", "#size", "SHA-256", "checks"),
        rows=(
            (
                f["path"],
                human_bytes(f["size"]),
                f["sha256"],
                "; ".join(f"{name}: {found}" for name, found in f["checks"]) or "-",
            )
            for f in files
        ),
        empty="No model has been deployed yet.",
    )


def _configuration(facts: Facts) -> Table:
    return _table(
        "Configuration",
        f"As it took effect; SHA-256 of run.toml: {facts['settings_sha256']}",
        ("key", "value"),
        rows=flat(facts["settings"]),
        empty="",
    )


def _table(
    title: str,
    caption: str,
    first: tuple[str, ...],
    *more: str,
    rows: Iterable[tuple[object, ...]],
    empty: str,
) -> Table:
    columns = ((name.removeprefix("#"), name[0] == "#") for name in (*first, *more))
    text = tuple(tuple(str(cell) for cell in row) for row in rows)
    return Table(title, caption, tuple(columns), text, empty)
