"""The report's table of layers: what each keeps, and how many devices held it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate, pairwise

from coordinator.views.layers import LayerView, WarmUpView
from coordinator.views.report.table import Bar, Table, table
from coordinator.views.round_view import RoundHistory
from coordinator.views.scores import percent

__all__ = ["layers_table"]

FEW = 3  # densities with a column each; of more one cell has all
TONES = 4  # shades of the style sheet


def layers_table(warm_up: WarmUpView | None, last: RoundHistory | None) -> Table:
    """Kept weights of each layer by density, and their coverage in the last round.

    Args:
        warm_up: The run's layers; None before the masks are drawn.
        last: The last round done; None before one is.
    """
    found = warm_up or WarmUpView(measured=False, densities=(), layers=())
    held = {c.name: c.held for c in (last.coverage if last else ())}
    few = len(found.densities) <= FEW
    most = max((d for parts in held.values() for d, _ in parts), default=0)

    def cells(layer: LayerView) -> Iterator[object]:
        name, size = layer.name, layer.size
        yield from (name, f"{size:,}")
        if found.measured:
            kept = layer.measured
            yield "-" if kept is None else percent(kept / size)
        parts = [(d, layer.kept[d]) for d in found.densities]
        if few:
            yield from (_bar(kept, size) for _, kept in parts)
        else:
            yield "; ".join(f"{d}: {percent(kept / size)}" for d, kept in parts)
        if held:
            yield _coverage(held.get(name, []), size, most)

    return table(
        "Layers",
        "Kept weights of each layer by density"
        + (
            "; and how many devices held which share in the last round: the darker, "
            "the more. A weight that no device held keeps its value"
            if held
            else ""
        ),
        ("layer", "#weights"),
        *(["#kept in the warm-up"] if found.measured else []),
        *((f"=kept at {d}" for d in found.densities) if few else ["~kept at"]),
        *(["=devices: share they held"] if held else []),
        rows=(tuple(cells(layer)) for layer in found.layers),
        empty="The masks of this run are not drawn yet.",
    )


def _bar(kept: int, size: int) -> Bar:
    share = percent(kept / size)
    return Bar(((round(100 * kept / size, 2), "d4"),), f"{kept:,} ({share})")


def _coverage(held: Sequence[tuple[int, int]], size: int, most: int) -> Bar:
    """Share of a layer's weights by how many devices held them."""
    ends = [round(100 * n / size, 2) for n in accumulate(n for _, n in held)]
    widths = [round(end - begin, 2) for begin, end in pairwise([0.0, *ends])]
    looks = [f"d{max(1, round(TONES * d / most))}" if d else "none" for d, _ in held]
    return Bar(
        tuple(zip(widths, looks, strict=True)),
        ", ".join(f"{d}: {percent(n / size)}" for d, n in held),
    )
