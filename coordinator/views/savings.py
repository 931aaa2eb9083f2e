"""Bytes and compute of a run, compared with dense float32 averaging."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from coordinator.views.round_view import RoundView

__all__ = ["BytesByRound", "Savings", "savings"]

FLOAT = 4  # bytes of a float32


@dataclass(frozen=True, slots=True)
class BytesByRound:
    """Bytes moved up to the end of round `no`, by this run and by the dense one."""

    no: int
    bytes: int
    dense_bytes: int


@dataclass(frozen=True, slots=True)
class Savings:
    """A run against dense federated averaging."""

    bytes: int  # moved
    dense_bytes: int  # that the dense run would have moved; more, unless `is_whole`
    times_fewer_bytes: float  # dense over own
    by_round: Sequence[BytesByRound]  # both, running
    # multiply-accumulates of training, dense over own; None if it is not known
    times_fewer_macs: float | None
    is_whole: bool  # whether values that no mask acts on are counted, too


def savings(
    rounds: Sequence[RoundView],
    trained: Iterable[tuple[float, str, int]],
    *,
    sizes: Mapping[str, int],
    counts: Mapping[str, Mapping[str, int]],
    workload: Mapping[str, Any] | None,
    folded: tuple[int, int] = (0, 0),
) -> Savings | None:
    """Bytes and multiply-accumulates against dense federated averaging.

    The dense run asks the same devices in the same rounds, sends each the whole model
    and takes the whole model back, as float32, and has no warm-up. This one's warm-up
    counts.

    Args:
        rounds: In order.
        trained: Density, engine and examples of each accepted update.
        sizes: Weights per maskable layer.
        counts: Kept weights per density (as text) and layer.
        workload: `dense_numel` (values that no mask acts on), `macs` per maskable layer
            and `dense_macs` of the others; None in ledgers of older versions: the
            values that no mask acts on are left out then, and so is the compute.
        folded: Bytes, and tasks and updates, of rounds that are in the ledger as sums.

    Returns:
        None before the masks are drawn, or before anything has moved in a round.

    Example:
        >>> one = RoundView(1, asked=2, accepted=1, up_bytes=100, down_bytes=200)
        >>> found = savings([one], [], sizes={"fc": 1000},
        ...                 counts={"0.1": {"fc": 100}}, workload=None)
        >>> found.dense_bytes, found.bytes, found.times_fewer_bytes
        (12000, 300, 40.0)
    """
    model = FLOAT * (sum(sizes.values()) + (workload or {}).get("dense_numel", 0))
    own = (r.up_bytes + r.down_bytes for r in rounds)
    moved = [folded[0] + n for n in accumulate(own)]
    parts = (r.asked + r.accepted if r.no else 0 for r in rounds)
    dense = [model * (folded[1] + n) for n in accumulate(parts)]
    if not moved or not moved[-1] or not dense[-1]:
        return None
    return Savings(
        bytes=moved[-1],
        dense_bytes=dense[-1],
        times_fewer_bytes=round(dense[-1] / moved[-1], 2),
        by_round=[
            BytesByRound(r.no, ours, theirs)
            for r, ours, theirs in zip(rounds, moved, dense, strict=True)
        ],
        times_fewer_macs=_macs(trained, counts, sizes, workload),
        is_whole=workload is not None,
    )


def _macs(
    trained: Iterable[tuple[float, str, int]],
    counts: Mapping[str, Mapping[str, int]],
    sizes: Mapping[str, int],
    workload: Mapping[str, Any] | None,
) -> float | None:
    """Dense compute over that done; the masked engine computes as a dense one."""
    if workload is None:
        return None
    macs, rest = workload["macs"], workload["dense_macs"]
    kept = {
        float(density): rest
        + sum(macs.get(name, 0) * n / sizes[name] for name, n in layers.items())
        for density, layers in counts.items()
    }
    whole = rest + sum(macs.values())
    own = dense = 0.0
    for density, engine, examples in trained:
        dense += whole * examples
        lean = engine in {"sparse", "program"}
        own += (kept.get(density, whole) if lean else whole) * examples
    return round(dense / own, 2) if own else None
