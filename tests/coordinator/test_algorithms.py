"""One battery over every algorithm of the table; a new one adds nothing here."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.algorithms import ALGORITHMS
from coordinator.algorithms.base import Algorithm, MaskFamily, RoundContext, keep_masks
from coordinator.algorithms.evidence import WarmUpResult
from coordinator.algorithms.mean import Contribution, Model
from coordinator.checkpoints.masks import pack_family, unpack_family
from coordinator.rounds.round_step import next_step
from edge_sdk.errors import RunError
from edge_sdk.sparse import LayerShape, Mask, draw, exact_counts, uniform
from edge_sdk.wire.codec import pack, unpack
from edge_sdk.wire.evidence import entries_beside
from edge_sdk.wire.rules import LocalRule, Measured, Regrow, Rewire, Swat, TopK
from edge_sdk.wire.structure import decode_structure, encode_structure
from edge_sdk.wire.values import Values

LAYERS = (
    LayerShape("conv.weight", (8, 4, 3, 3)),
    LayerShape("dw.weight", (8, 1, 3, 3), 8),
    LayerShape("fc.weight", (10, 32)),
)
RNG = np.random.default_rng(7)
ALL = Mask({s.name: np.ones(s.shape, np.bool_) for s in LAYERS})
FINDINGS = WarmUpResult(
    model=Model(
        ALL, {s.name: RNG.normal(size=s.numel).astype(np.float32) for s in LAYERS}, {}
    ),
    kept={"conv.weight": 40.0, "dw.weight": 60.5, "fc.weight": 20.0},
    saliency={s.name: RNG.exponential(size=s.shape) for s in LAYERS},
    losses=[2.0, 1.5, 3.0],
)
SIZE = sum(s.numel for s in LAYERS)
densities = st.lists(st.floats(0.15, 1.0), min_size=1, max_size=4, unique=True)

every = pytest.mark.parametrize("algorithm", ALGORITHMS.values(), ids=ALGORITHMS)

FLOORLESS = "released", "unfloored"  # what their names end with

frozen = pytest.mark.parametrize(
    "algorithm",
    [a for a in ALGORITHMS.values() if a.revise is keep_masks],
    ids=lambda a: a.name,
)


def spends(algorithm: Algorithm, mask: Mask, density: float) -> bool:
    """All of its density and no more; at most about that where counts are drawn."""
    wanted = int(np.floor(density * SIZE + 1e-9))
    if not algorithm.name.endswith("released"):
        return mask.nnz == wanted
    return mask.nnz <= wanted + 1 + 5 * np.sqrt(SIZE * density * (1 - density))


def planned(algorithm: Algorithm, wanted: list[float]) -> MaskFamily:
    return algorithm.plan(LAYERS, wanted, FINDINGS if algorithm.evidence else None, 1)


def start(algorithm: Algorithm, family: MaskFamily) -> Model:
    rng = np.random.default_rng(0)
    top = family.top
    model = Model(
        top,
        {n: rng.normal(size=top.counts[n]).astype(np.float32) for n in top},
        {"bias": np.zeros(3, np.float32)},
    )
    if algorithm.init_state is None:
        return model
    return replace(model, state=algorithm.init_state(model))


@every
def test_it_stands_in_the_table_under_its_own_name(algorithm: Algorithm) -> None:
    assert ALGORITHMS[algorithm.name] is algorithm


@every
@given(wanted=densities)
def test_its_masks_spend_their_density_and_nest(
    algorithm: Algorithm, wanted: list[float]
) -> None:
    family = planned(algorithm, wanted)
    assert list(family.masks) == sorted(family.masks, reverse=True)
    for density, mask in family.masks.items():
        assert spends(algorithm, mask, density)
        assert mask.issubset(family.top)
        for layer in LAYERS if not algorithm.name.endswith(FLOORLESS) else ():
            assert mask.counts[layer.name] >= layer.floor
    assert set(family.masks) - {1.0} == (
        set() if algorithm.name == "fedavg" else set(wanted) - {1.0}
    )


@every
def test_its_first_model_stands_on_its_top_mask(algorithm: Algorithm) -> None:
    family = planned(algorithm, [0.5, 0.2])
    state = {s.name: np.ones(s.shape, np.float32) for s in LAYERS}
    state["bias"] = np.zeros(3, np.float32)
    model = algorithm.start(family, state, FINDINGS if algorithm.evidence else None)
    assert model.mask.digest == family.top.digest
    for name, kept in family.top.counts.items():
        assert model.masked[name].shape == (kept,)
        assert model.masked[name].dtype == np.float32
        assert np.isfinite(model.masked[name]).all()
        assert model.masked[name].any()


@every
def test_a_device_comes_by_the_same_masks(algorithm: Algorithm) -> None:
    """From seed and counts where they were drawn, from their structure otherwise."""
    family = planned(algorithm, [0.5, 0.2])
    for density, mask in family.masks.items():
        assert family.of("anyone", density) is mask
        recipe = family.recipe(mask)
        if family.drawn(mask):
            assert draw(LAYERS, recipe.counts, recipe.seed).digest == recipe.digest
        else:
            found = decode_structure(encode_structure(mask), LAYERS, recipe.digest)
            assert found == mask


def moved(mask: Mask, rng: np.random.Generator) -> Mask:
    """As many weights, a fifth of them elsewhere."""
    after = {}
    for name in mask:
        flat = mask[name].reshape(-1).copy()
        on, off = np.flatnonzero(flat), np.flatnonzero(~flat)
        count = min(len(on) // 5, len(off))
        flat[rng.choice(on, count, replace=False)] = False
        flat[rng.choice(off, count, replace=False)] = True
        after[name] = flat.reshape(mask[name].shape)
    return Mask(after)


def updates(
    algorithm: Algorithm, family: MaskFamily, rule: LocalRule
) -> list[Contribution]:
    """Three devices' updates, on masks of their own where the rule moves them."""
    rng = np.random.default_rng(3)
    density = algorithm.assign({"a": 1.0}, list(family.masks))["a"]
    found = []
    for device, examples in (("a1", 5), ("b1", 9), ("c1", 2)):
        mask = family.of(device, density)
        if isinstance(rule, Rewire | Regrow):
            mask = moved(mask, rng)
        elif isinstance(rule, Swat | TopK):
            share = rule.sent if isinstance(rule, Swat) else rule.density
            kept = exact_counts(uniform(LAYERS), LAYERS, share)
            mask = draw(LAYERS, kept, int(rng.integers(99)))
        change = {
            n: rng.normal(size=k).astype(np.float32) for n, k in mask.counts.items()
        }
        dense = {"bias": rng.normal(size=3).astype(np.float32)}
        beside = entries_beside(rule, {s.name: s.shape for s in LAYERS})
        dense |= {n: rng.random(a.shape, np.float32) for n, a in beside.items()}
        found.append(
            Contribution(device, mask, examples, Values(mask.digest, change, dense))
        )
    return found


@every
@pytest.mark.parametrize("round_no", [1, 2, 3])
def test_the_next_masks_spend_the_budget_nest_and_hold_the_model(
    algorithm: Algorithm, round_no: int
) -> None:
    family = planned(algorithm, [0.5, 0.2])
    given_ = updates(algorithm, family, algorithm.local(RoundContext(round_no, 8, 0.5)))
    model, after, _ = next_step(algorithm, start(algorithm, family), family, given_)
    assert model.mask.digest == after.top.digest
    assert set(after.masks) == set(family.masks)
    for density, mask in after.masks.items():
        assert spends(algorithm, mask, density)
        assert mask.issubset(after.top)
    for mask in after.own.values():
        assert mask.issubset(after.top)
    for name in after.top:
        assert model.masked[name].shape == (after.top.counts[name],)
        assert np.isfinite(model.masked[name]).all()
        assert not model.full(name)[~after.top[name]].any()


redrawn = pytest.mark.parametrize(
    "algorithm",
    [a for a in ALGORITHMS.values() if a.redraw is not None],
    ids=lambda a: a.name,
)


@redrawn
def test_masks_that_evidence_redraws_in_mid_run_spend_nest_and_hold_the_model(
    algorithm: Algorithm,
) -> None:
    """Of every round of a run: weights that both masks hold stay, others begin at 0."""
    uses = {s.name: 1.0 + len(s.shape) for s in LAYERS}
    family, redraws = planned(algorithm, [0.5, 0.2]), 0
    model = start(algorithm, family)
    for no in range(1, 61):
        context = RoundContext(no, 120, 0.5)
        rule = algorithm.local(context)
        if not isinstance(rule, Measured):
            continue
        sent = updates(algorithm, family, rule)
        stayed, _, _ = next_step(algorithm, model, family, sent)
        given_ = (algorithm, model, family, sent, context, uses.copy)
        (model, after, _), (_, again, _) = next_step(*given_), next_step(*given_)
        assert after.masks == again.masks
        assert set(after.masks) == set(family.masks)
        for density, mask in after.masks.items():
            assert spends(algorithm, mask, density)
            assert mask.issubset(after.top)
        assert model.mask.digest == after.top.digest
        for name, pattern in after.top.layers.items():
            assert after.top.counts[name] >= len(pattern)
            both = pattern & family.top[name]
            found = model.full(name)
            np.testing.assert_array_equal(found[both], stayed.full(name)[both])
            assert not found[~both].any()
        redraws += after.top.digest != family.top.digest
        family = after
    assert redraws


@every
def test_the_order_of_arrival_changes_nothing_that_counts(algorithm: Algorithm) -> None:
    family = planned(algorithm, [0.5, 0.2])
    given_ = updates(algorithm, family, algorithm.local(RoundContext(1, 8, 0.5)))
    one, masks, _ = next_step(algorithm, start(algorithm, family), family, given_)
    two, same, _ = next_step(algorithm, start(algorithm, family), family, given_[::-1])
    assert [m.digest for m in masks.masks.values()] == [
        m.digest for m in same.masks.values()
    ]
    for name in one.masked:
        np.testing.assert_allclose(one.masked[name], two.masked[name], atol=1e-5)


@every
def test_masks_survive_the_disk(algorithm: Algorithm, tmp_path: Path) -> None:
    family = planned(algorithm, [0.5, 0.2])
    given_ = updates(algorithm, family, algorithm.local(RoundContext(1, 8, 0.5)))
    _, after, _ = next_step(algorithm, start(algorithm, family), family, given_)
    (tmp_path / "masks").write_bytes(pack_family(after))
    again = unpack_family(tmp_path / "masks", LAYERS)
    assert again.masks == after.masks
    assert again.own == after.own


@every
def test_what_it_remembers_fits_the_next_model(algorithm: Algorithm) -> None:
    """Over rounds that move masks too, finite, and of no entry that is not there."""
    family = planned(algorithm, [0.5, 0.2])
    model = start(algorithm, family)
    for no in (1, 2):
        sent = updates(algorithm, family, algorithm.local(RoundContext(no, 8, 0.5)))
        model, family, _ = next_step(algorithm, model, family, sent)
        assert bool(model.state) == (algorithm.init_state is not None)
        entries = {**model.masked, **model.dense}
        for quantity in model.state.values():
            for name, array in quantity.items():
                assert array.shape == entries[name].shape
                assert np.isfinite(array).all()


@every
@given(
    afford=st.dictionaries(
        st.sampled_from(["a1", "b1", "c1"]), st.sampled_from([0.1, 0.2, 0.5, 1.0])
    )
)
def test_every_device_is_given_a_density_of_the_family(
    algorithm: Algorithm, afford: dict[str, float]
) -> None:
    family = planned(algorithm, [0.5, 0.2])
    given_ = algorithm.assign(afford, list(family.masks))
    assert set(given_) == set(afford)
    assert set(given_.values()) <= set(family.masks)
    # It depends on the device alone, never on who else is here.
    for device, own in afford.items():
        alone = algorithm.assign({device: own}, list(family.masks))
        assert alone[device] == given_[device]


@frozen
def test_a_round_moves_what_was_trained_and_nothing_else(algorithm: Algorithm) -> None:
    family = planned(algorithm, [0.5, 0.2])
    low = list(family.masks)[-1]
    mask, base = family.masks[low], start(algorithm, family)
    steps_by_itself = bool(base.state)
    ones = {n: np.ones(mask.counts[n], np.float32) for n in mask}
    change = Values(mask.digest, ones, {"bias": np.full(3, 2, np.float32)})
    after, coverage = algorithm.aggregate(
        base, [Contribution("a1", mask, 5, change), Contribution("b1", mask, 9, change)]
    )
    for name in family.top:
        spot = mask.within(family.top, name)
        moved = np.zeros(family.top.counts[name])
        moved[spot] = 1
        if steps_by_itself:  # how far is its optimizer's own business
            assert ((after.masked[name] != base.masked[name]) == (moved > 0)).all()
        else:
            np.testing.assert_allclose(
                after.masked[name], base.masked[name] + moved, rtol=1e-6
            )
        assert coverage[name].sum() == 2 * mask.counts[name]
    if not steps_by_itself:
        np.testing.assert_allclose(after.dense["bias"], 2)
    assert algorithm.revise(family, after, coverage, {}) is family


@every
@given(st.integers(1, 9), st.floats(0.01, 1.0))
def test_its_local_rule_travels(
    algorithm: Algorithm, round_no: int, density: float
) -> None:
    rule = algorithm.local(RoundContext(round_no, 9, density))
    assert isinstance(rule, LocalRule)
    assert unpack(pack(rule), type(rule)) == rule


@every
def test_one_that_wants_evidence_does_not_plan_without(algorithm: Algorithm) -> None:
    if algorithm.evidence is None:
        assert algorithm.plan(LAYERS, [0.5], None, 1).masks
        return
    with pytest.raises(RunError, match="there is none"):
        algorithm.plan(LAYERS, [0.5], None, 1)


@every
def test_the_same_seed_plans_the_same_masks(algorithm: Algorithm) -> None:
    first, again = planned(algorithm, [0.5, 0.2]), planned(algorithm, [0.2, 0.5])
    assert [m.digest for m in first.masks.values()] == [
        m.digest for m in again.masks.values()
    ]


def test_hetero_flash_gives_the_largest_mask_a_device_affords() -> None:
    assign = ALGORITHMS["hetero-flash"].assign
    afford = {"strong": 1.0, "exact": 0.2, "between": 0.3, "weak": 0.01}
    assert assign(afford, [0.5, 0.2]) == {
        "strong": 0.5,
        "exact": 0.2,
        "between": 0.2,
        "weak": 0.2,
    }
