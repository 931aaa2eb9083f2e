"""The benchmark card: bytes by density, recovery, and Flower beside us, as a page.

Run from the root of the project, after what writes the JSON files (`make bench-card`):
    python tests/bench/card.py [--write]

Bytes are computed here, from random changes packed as for the wire. The other figures
are read from bench/*.json; a file that is not there leaves its part out.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from bench_codecs import MODELS, _random

from edge_sdk.sparse import draw, exact_counts, uniform
from edge_sdk.tasks.layers import layers_of
from edge_sdk.wire.values import pack_values

ROOT = Path(__file__).parents[2]
BENCH, DOCUMENT = ROOT / "bench", ROOT / "docs" / "benchmarks.md"
PLACE = re.compile(r"<!-- card: generated -->.*?<!-- card: end -->", re.S)
DENSITIES = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0)


def card() -> str:
    """All parts, in order."""
    parts = [*_bytes(), *_recovery(), *_page(), *_flower()]
    return "\n".join(["<!-- card: generated -->", *parts, "<!-- card: end -->"])


def _bytes() -> Iterator[str]:
    yield "## Bytes of a device in a round, by density\n"
    yield "An update as int8 and the model it starts from as fp16, payloads only, and"
    yield "how many times fewer than dense fp32. `python tests/bench/card.py`\n"
    yield "| model | density | up | down |"
    yield "|---|---|---|---|"
    for name, (make, kept_dense) in MODELS.items():
        model = make()
        layers = layers_of(model, kept_dense)
        dense = sum(np.asarray(v).nbytes for v in model.state_dict().values())
        for density in DENSITIES:
            mask = draw(layers, exact_counts(uniform(layers), layers, density), 1)
            values, rng = _random(model, mask), np.random.default_rng(2)
            sizes = [
                len(pack_values(values, mask, codec=codec, rng=rng))
                for codec in ("int8", "fp16")
            ]
            cells = [f"{size:,} ({dense / size:.1f}x)" for size in sizes]
            yield f"| {name} | {density:g} | {cells[0]} | {cells[1]} |"


def _recovery() -> Iterator[str]:
    found = _read("recover.json")
    if found is None:
        return
    yield "\n## Recovery after kill -9\n"
    yield "From starting the process again to the next accepted update, digits, four"
    yield "devices: median (least to most). `python tests/bench/bench_recover.py`;"
    yield f"{_machine(found)}.\n"
    yield "| killed | seconds |"
    yield "|---|---|"
    names = {"import torch": "(importing torch alone)"}
    for name, times in found["seconds"].items():
        middle = statistics.median(times)
        row = f"{middle:.1f} ({min(times):.1f} to {max(times):.1f}, {len(times)} times)"
        yield f"| {names.get(name, name)} | {row} |"
    yield "\nThe goal for a device is 3 s. One without torch meets it; with torch,"
    yield "importing it is more than half."


def _page() -> Iterator[str]:
    found = _read("page-cost.json")
    if found is None:
        return
    yield "\n## What the open web page costs a round\n"
    yield f"A round without training of {found['devices']} light devices, runs in turn"
    yield "without the page and with one that asks for its facts four times a second."
    yield f"`python tests/bench/bench_page_cost.py`; {_machine(found)}.\n"
    yield "| page | rounds | median | 90th percentile |"
    yield "|---|---|---|---|"
    for name, times in found["round_ms"].items():
        middle, high = statistics.median(times), statistics.quantiles(times, n=10)[-1]
        yield f"| {name} | {len(times)} | {middle:.0f} ms | {high:.0f} ms |"


def _flower() -> Iterator[str]:
    found = _read("flower.json")
    if found is None:
        return
    yield "\n## Beside Flower's simulation\n"
    yield "MNISTNet, 10 clients of 600 images, all in every round, one epoch of SGD at"
    yield "batch 32, nobody evaluates; seconds a round, medians, runs in turn."
    yield "Flower 1.41.0 with Ray in an environment of its own:"
    yield f"`python tests/bench/bench_flower.py PYTHON`; {_machine(found)}.\n"
    yield "| training | simulation | wall | processor, all processes |"
    yield "|---|---|---|---|"
    for kind, rows in found["rounds"].items():
        for name, row in rows.items():
            cells = [
                f"{row[key]:.3g} s ({rows['Flower'][key] / row[key]:.1f}x)"
                for key in ("seconds", "processor")
            ]
            yield f"| {kind} | {name} | {cells[0]} | {cells[1]} |"


def _machine(found: dict[str, Any]) -> str:
    text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    model = re.search(r"model name\s*: (.*)", text)
    name = model[1] if model else "processor"
    return f"{found['cores']} cores of an {name}, load {found['load'][0]:.0f}"


def _read(name: str) -> dict[str, Any] | None:
    path = BENCH / name
    if not path.exists():
        return None
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def main() -> None:
    """Prints the card, or writes it into the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true")
    found = card()
    if not parser.parse_args().write:
        print(found)
        return
    text = DOCUMENT.read_text(encoding="utf-8")
    DOCUMENT.write_text(PLACE.sub(lambda _: found, text), encoding="utf-8")


if __name__ == "__main__":
    main()
