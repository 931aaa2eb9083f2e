"""PruneFL and FedTiny: which weights enter and leave, worked out by hand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from coordinator.algorithms.base import MaskFamily, RoundContext
from coordinator.algorithms.evidence import WarmUpResult
from coordinator.algorithms.load import load_algorithm
from coordinator.algorithms.mean import Model
from coordinator.algorithms.methods.pruning.fedtiny import fedtiny
from coordinator.algorithms.methods.pruning.prunefl import prunefl
from coordinator.settings import RunSettings, check_algorithm_fits
from edge_sdk.errors import SettingsError
from edge_sdk.sparse import LayerShape, Mask, candidate_counts, top_k
from edge_sdk.tasks.cost import weight_uses
from edge_sdk.tasks.task import load_task
from edge_sdk.wire.rules import Frozen, Measured

A, B = LayerShape("a", (2, 6)), LayerShape("b", (2, 4))
LAYERS = (A, B)


def held(a: list[float], b: list[float]) -> tuple[MaskFamily, Model]:
    """A family of one mask, and a model; 0 is what is not kept."""
    whole = {
        "a": np.array(a, np.float32).reshape(A.shape),
        "b": np.array(b, np.float32).reshape(B.shape),
    }
    mask = Mask({n: w != 0 for n, w in whole.items()})
    family = MaskFamily(LAYERS, {0.5: mask}, None)
    return family, Model(mask, {n: w[mask[n]] for n, w in whole.items()}, {})


def measured(
    a: Sequence[float], b: Sequence[float], uses: tuple[float, float] = (1, 1)
) -> WarmUpResult:
    gradient = {
        "a": np.array(a, float).reshape(A.shape),
        "b": np.array(b, float).reshape(B.shape),
    }
    return WarmUpResult(gradient=gradient, uses=dict(zip("ab", uses, strict=True)))


def test_the_largest_stay_and_the_rest_goes_by_gradient_for_its_time() -> None:
    """Ten kept; at the start of a long run six tenths may be replaced."""
    family, model = held([9, 8, 1, 1, 0, 0, 7, 1, 0, 0, 0, 0], [6, 1, 1, 0, 1, 0, 0, 0])
    # The safe four: 9, 8, 7 of a and 6 of b. Six places are free, by gradient / uses.
    gradient = [0, 0, 5, 0, 4, 0, 0, 0, 3, 0, 0, 0], [0, 80, 0, 0, 0, 70, 60, 0]
    redraw = prunefl(share=0.6).redraw
    assert redraw is not None
    found = measured(*gradient, uses=(1.0, 10.0))
    after = redraw(family, model, found, RoundContext(0, 1000, 0.5)).top
    assert np.flatnonzero(after["a"]).tolist() == [0, 1, 2, 4, 6, 8]
    assert np.flatnonzero(after["b"]).tolist() == [0, 1, 5, 6]
    # Were b's weights a hundred times as dear, a's own would go before them.
    dear = measured(*gradient, uses=(1.0, 1e6))
    same = redraw(family, model, dear, RoundContext(0, 1000, 0.5)).top
    assert same == after  # there are no others with any gradient
    more = measured([0, 0, 5, 5, 4, 4, 0, 5, 3, 0, 0, 0], gradient[1], uses=(1.0, 1e6))
    other = redraw(family, model, more, RoundContext(0, 1000, 0.5)).top
    assert np.flatnonzero(other["a"]).tolist() == [0, 1, 2, 3, 4, 5, 6, 7]
    assert other.counts["b"] == 2  # a weight for each of its units


def test_nothing_moves_at_the_end_of_a_run_or_without_a_gradient() -> None:
    family, model = held([9, 8, 1, 1, 0, 0, 7, 1, 0, 0, 0, 0], [6, 1, 1, 0, 1, 0, 0, 0])
    redraw = prunefl().redraw
    assert redraw is not None
    ones = measured([1] * 12, [1] * 8)
    assert redraw(family, model, ones, RoundContext(9, 9, 0.5)).masks == family.masks
    none = measured([0] * 12, [0] * 8)
    assert redraw(family, model, none, RoundContext(1, 9, 0.5)) is family


def test_by_shift_evidence_is_asked_for_after_drift_alone_and_the_share_stays() -> None:
    by_shift = prunefl(shift=0.3, share=0.6)
    assert by_shift.on_drift == 0.3
    for no in (1, 50, 100):
        assert by_shift.local(RoundContext(no, 0, 0.5)) == Frozen()
        assert isinstance(by_shift.local(RoundContext(no, 0, 0.5, 0, True)), Measured)
    assert by_shift.local(RoundContext(9, 9, 0.5, 0, True)) == Frozen()
    assert prunefl().local(RoundContext(7, 99, 0.5, 0, True)) == Frozen()  # by itself
    family, model = held([9, 8, 1, 1, 0, 0, 7, 1, 0, 0, 0, 0], [6, 1, 1, 0, 1, 0, 0, 0])
    gradient = [0, 0, 5, 0, 4, 0, 0, 0, 3, 0, 0, 0], [0, 80, 0, 0, 0, 70, 60, 0]
    assert by_shift.redraw is not None
    found = measured(*gradient, uses=(1.0, 10.0))
    for context in (RoundContext(99, 0, 0.5), RoundContext(99, 100, 0.5)):
        after = by_shift.redraw(family, model, found, context).top
        assert np.flatnonzero(after["a"]).tolist() == [0, 1, 2, 4, 6, 8]


@pytest.mark.parametrize("shift", [-0.1, float("nan"), float("inf")])
def test_a_shift_that_cannot_be_is_refused(shift: float) -> None:
    with pytest.raises(SettingsError, match="shift"):
        prunefl(shift=shift)


def test_evidence_is_asked_for_every_so_often_and_not_at_the_end() -> None:
    local = prunefl(interval=3, batches=2).local
    asked = [
        isinstance(local(RoundContext(no, 9, 0.5)), Measured) for no in range(1, 10)
    ]
    assert asked == [no in (3, 6) for no in range(1, 10)]
    assert local(RoundContext(3, 9, 0.5)) == Measured(batches=2, squared=True)


def test_a_convolutions_weight_is_used_once_per_position() -> None:
    uses = weight_uses(load_task("digits"))
    convolutions = [n for n in uses if "conv" in n]
    assert convolutions
    for name, times in uses.items():
        assert times == (1.0 if name not in convolutions else pytest.approx(times))
        assert times >= 1.0
    assert max(uses.values()) > 4


def test_fedtiny_begins_with_the_candidate_of_the_least_loss() -> None:
    algorithm = fedtiny(spread=0.9)
    rng = np.random.default_rng(3)
    whole = Model(
        Mask.full(LAYERS),
        {s.name: rng.normal(size=s.numel).astype(np.float32) for s in LAYERS},
        {},
    )
    found = WarmUpResult(losses=[3.0, 2.0, 1.0, 1.0], model=whole)
    family = algorithm.plan(LAYERS, [0.5, 0.3], found, 4)
    kept = candidate_counts(LAYERS, 0.5, 4, 0.9, 4)[2]
    assert dict(family.top.counts) == kept
    for s in LAYERS:
        size = np.abs(whole.full(s.name))
        assert (family.top[s.name] == top_k(size, kept[s.name], "4")).all()
    assert family.masks[0.3].issubset(family.top)


def test_fedtiny_goes_through_the_blocks_from_the_last_to_the_first() -> None:
    local = fedtiny(interval=2, stop=8, blocks=3).local
    asked = [local(RoundContext(no, 20, 0.5)) for no in range(1, 13)]
    blocks = [r.block if isinstance(r, Measured) else None for r in asked]
    assert blocks == [None, 2, None, 1, None, 0, None, 2, *[None] * 4]


def test_fedtiny_replaces_a_share_of_one_block_alone() -> None:
    family, model = held([9, 8, 2, 1, 0, 0, 7, 3, 0, 0, 0, 0], [6, 1, 1, 0, 1, 0, 0, 0])
    algorithm = fedtiny(share=0.5, stop=100)
    assert algorithm.redraw is not None
    signed = np.array([9, 0, 0, 0, 0, 3, 0, 0, -5, 1, 0, 0.0]).reshape(A.shape)
    found = WarmUpResult(gradient={"a": signed})
    after = algorithm.redraw(family, model, found, RoundContext(0, 200, 0.5)).top
    # Of six kept 1, 2 and 3 give way; of the free places -5, 3 and 1 are largest.
    assert np.flatnonzero(after["a"]).tolist() == [0, 1, 5, 6, 8, 9]
    assert (after["b"] == family.top["b"]).all()
    end = RoundContext(100, 200, 0.5)
    assert algorithm.redraw(family, model, found, end) is family


@pytest.mark.parametrize(
    "reference",
    [
        "prunefl(share=0)", "prunefl(interval=0)", "prunefl(batches=0)",
        'prunefl(on="feddst")', 'prunefl(on="flash-edge")', "fedtiny(candidates=0)",
        "fedtiny(candidates=65)", "fedtiny(spread=1.0)", "fedtiny(share=1.5)",
        "fedtiny(interval=0)", "fedtiny(stop=0)", "fedtiny(blocks=0)",
        "fedtiny(batches=0)",
    ],
)  # fmt: skip
def test_a_setting_out_of_range_is_refused_in_words(reference: str) -> None:
    with pytest.raises(SettingsError, match=r"^(prunefl|fedtiny)[ :]"):
        load_algorithm(reference)


@pytest.mark.parametrize("more", [{"aggregate": "trimmed-mean"}, {"power": 1.5}])
def test_what_masks_that_move_do_not_go_with_is_refused(more: dict[str, Any]) -> None:
    from pathlib import Path

    from coordinator.settings import TrainingSettings

    power = more.pop("power", 1.0)
    settings = RunSettings(
        federation="t", task="digits", evaluation=Path(), densities=[0.1], rounds=2,
        training=TrainingSettings(power=power), **more,
    )  # fmt: skip
    for algorithm in (prunefl(), fedtiny()):
        with pytest.raises(SettingsError, match=algorithm.name):
            check_algorithm_fits(algorithm, settings)


def test_it_goes_on_the_masks_of_another_algorithm() -> None:
    found = load_algorithm('prunefl(interval=2, on="flash-scaled")')
    assert found.name == "prunefl-on-flash-scaled"
    assert found.warms_up
    assert isinstance(found.local(RoundContext(1, 9, 0.1)), Frozen)
    assert isinstance(found.local(RoundContext(2, 9, 0.1)), Measured)
    state = load_algorithm('prunefl(on="fedadam")')
    assert state.init_state is not None
