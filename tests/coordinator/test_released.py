"""The released code's masks: what is random in them, what is lost, what is erased."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.algorithms import ALGORITHMS
from coordinator.algorithms.base import Algorithm, MaskFamily, RoundContext
from coordinator.algorithms.evidence import WarmUpResult
from coordinator.algorithms.mean import Contribution, Model
from coordinator.rounds.round_step import next_step
from edge_sdk.errors import DensityError
from edge_sdk.sparse import LayerShape, exact_counts
from edge_sdk.wire.rules import Frozen
from edge_sdk.wire.values import Values

LAYERS = LayerShape("conv.weight", (20, 10, 5, 5)), LayerShape("fc.weight", (50, 400))
SIZES = {s.name: s.numel for s in LAYERS}
ALL = sum(SIZES.values())


def planned(
    name: str, kept: dict[str, float], densities: list[float], seed: int = 1
) -> MaskFamily:
    return ALGORITHMS[name].plan(LAYERS, densities, WarmUpResult(kept=kept), seed)


def evidence(conv: float, target: float) -> dict[str, float]:
    """Kept counts that spend the target, `conv` of them in the convolution."""
    return {"conv.weight": conv, "fc.weight": target * ALL - conv}


def test_counts_are_binomial_in_each_layer() -> None:
    found = {n: [] for n in SIZES}
    for seed in range(60):
        mask = planned("flash-released", evidence(500, 0.1), [0.1], seed).top
        for name, count in mask.counts.items():
            found[name].append(count)
    for name, kept in evidence(500, 0.1).items():
        share = kept / SIZES[name]
        deviation = np.sqrt(SIZES[name] * share * (1 - share))
        assert np.mean(found[name]) == pytest.approx(kept, abs=deviation / 2)
        assert 0.7 * deviation < np.std(found[name]) < 1.3 * deviation


def test_what_a_layer_would_hold_above_1_is_lost_or_spent_on_the_others() -> None:
    """Only evidence of another density than the run's can do that; see below."""
    kept = {"conv.weight": 4000.0, "fc.weight": 1000.0}
    lost = planned("flash-released", kept, [0.5]).top
    spent = planned("flash-unfloored", kept, [0.5]).top
    assert lost.counts["conv.weight"] == spent.counts["conv.weight"] == 5000
    assert spent.nnz == 12_500
    assert lost.counts["fc.weight"] == pytest.approx(2500, abs=250)


@given(st.floats(0.02, 0.9), st.floats(0.01, 0.99), st.floats(0.1, 1))
def test_evidence_that_sums_to_the_budget_leaves_nothing_to_re_spend(
    target: float, part: float, lower: float
) -> None:
    """Why capping without re-spending is no algorithm of its own."""
    conv = part * min(SIZES["conv.weight"], target * ALL)
    conv = max(conv, target * ALL - SIZES["fc.weight"])
    profile = np.array([k / SIZES[n] for n, k in evidence(conv, target).items()])
    size = np.array(list(SIZES.values()), float)
    for density in (target, lower * target):
        plain = density * size.sum() / (profile @ size) * profile
        assert plain.max() <= 1 + 1e-9


def test_without_floors_units_die_and_no_density_is_too_low() -> None:
    kept = evidence(400, 0.02)
    bare, floored = (
        planned(name, kept, [0.02]).top for name in ("flash-unfloored", "flash")
    )
    assert bare.nnz == floored.nnz == 500
    dead = {m: int((~m["fc.weight"].any(axis=1)).sum()) for m in (bare, floored)}
    assert dead[bare] > 0
    assert dead[floored] == 0
    assert planned("flash-unfloored", kept, [0.0001]).top.nnz == 2
    with pytest.raises(DensityError):
        planned("flash", kept, [0.0001])
    with pytest.raises(DensityError):
        planned("flash-released", kept, [0.0])


def test_counts_without_floors_follow_the_profile_alone() -> None:
    profile = np.array([0.9, 0.001])
    bare = exact_counts(profile, LAYERS, 0.02, floors=False)
    assert sum(bare.values()) == 500
    assert bare["fc.weight"] < 10 < exact_counts(profile, LAYERS, 0.02)["fc.weight"]


def updated(
    algorithm: Algorithm, family: MaskFamily, base: Model, densities: list[float]
) -> tuple[Model, MaskFamily]:
    """A round in which every device adds 1 to all it holds."""
    given_ = []
    for place, density in enumerate(densities):
        mask = family.of("x", density)
        ones = {n: np.ones(k, np.float32) for n, k in mask.counts.items()}
        values = Values(mask.digest, ones, {})
        given_.append(Contribution(f"d{place}", mask, 5, values))
    model, after, _ = next_step(algorithm, base, family, given_)
    return model, after


def test_hetero_sub_masks_are_the_largest_weights_and_what_nobody_held_is_erased() -> (
    None
):
    algorithm = ALGORITHMS["hetero-flash-released"]
    family = planned(algorithm.name, evidence(500, 0.2), [0.2, 0.1, 0.05])
    rng = np.random.default_rng(1)
    top = family.top
    base = Model(
        top,
        {n: rng.normal(size=k).astype(np.float32) for n, k in top.counts.items()},
        {},
    )
    assert algorithm.local(RoundContext(1, 9, 0.2)) == Frozen()
    model, after = updated(algorithm, family, base, [0.2, 0.1])
    assert after.top is top
    for name in top:  # all of the top is held by the first device
        np.testing.assert_allclose(model.masked[name], base.masked[name] + 1, rtol=1e-6)
    smaller = after.masks[0.1]
    for name in top:
        size = np.abs(model.full(name))
        assert size[smaller[name]].min() >= size[top[name] & ~smaller[name]].max()
        assert smaller.counts[name] == int(0.1 * ALL / top.nnz * top.counts[name])
    assert after.masks[0.05].issubset(smaller)
    model, after = updated(algorithm, after, model, [0.1, 0.05])
    for name in top:
        assert not model.full(name)[top[name] & ~smaller[name]].any()
        assert model.full(name)[smaller[name]].all()
