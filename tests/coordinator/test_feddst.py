"""FedDST and SalientGrads: which weights stay, and who is asked."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import coordinator
from coordinator.algorithms import ALGORITHMS
from coordinator.algorithms.base import Algorithm, RoundContext
from coordinator.algorithms.evidence import Saliency, WarmUpResult
from coordinator.algorithms.findings import mean_findings
from coordinator.algorithms.mean import Contribution, Model
from coordinator.rounds.round_step import next_step
from coordinator.rounds.selection import asks_everybody, draft_round
from coordinator.settings import RunSettings
from edge_sdk.sparse import LayerShape, Mask, erk_rescaled, regrow
from edge_sdk.wire.rules import Frozen, Regrow
from edge_sdk.wire.values import Values

LAYERS = (LayerShape("conv.weight", (20, 10, 5, 5)), LayerShape("fc.weight", (50, 200)))


def test_its_budgets_are_the_authors_up_to_the_floors() -> None:
    family = coordinator.feddst().plan(LAYERS, [0.2], None, 1)
    want = erk_rescaled(LAYERS, 0.2)
    for density, layer in zip(want, LAYERS, strict=True):
        assert family.top.counts[layer.name] == pytest.approx(
            density * layer.numel, abs=2
        )


@pytest.mark.parametrize("name", ["feddst", "jmwst", "nst", "zerofl"])
def test_what_no_size_decides_no_position_decides(name: str) -> None:
    """Candidates that devices have regrown are 0; by index the first would stay."""
    algorithm, rng = ALGORITHMS[name], np.random.default_rng(0)
    findings = WarmUpResult(kept={s.name: 0.1 * s.numel for s in LAYERS})
    family = algorithm.plan(LAYERS, [0.1], findings if algorithm.evidence else None, 1)
    base = Model(
        family.top,
        {n: rng.normal(size=k).astype("f4") for n, k in family.top.counts.items()},
        {},
    )
    density = next(iter(algorithm.assign({"a": 0.1}, list(family.masks)).values()))
    sent = []
    for device in ("a", "b", "c", "d"):
        mask = family.of(device, density)
        spread = base.on(mask).masked
        weights = {}
        for layer in mask:
            weights[layer] = np.zeros(mask[layer].shape, np.float32)
            weights[layer][mask[layer]] = spread[layer]
        slopes = {n: rng.normal(size=w.shape).astype("f4") for n, w in weights.items()}
        patterns = {n: np.array(mask[n]) for n in mask}
        moved = Mask(regrow(weights, slopes, patterns, 0.5, device))
        # What stays keeps its value and what goes is not sent: all changes are 0, but
        # for the base's values where a full base holds what this device has dropped.
        change = {}
        for layer in moved:
            start = base.full(layer)[moved[layer]]
            change[layer] = (weights[layer][moved[layer]] - start).astype("f4")
        sent.append(Contribution(device, moved, 1.0, Values(moved.digest, change, {})))
    after_model, after, _ = next_step(algorithm, base, family, sent)
    deployed = list(after.masks.values())[-1]
    for shape in LAYERS:
        kept = deployed[shape.name] & (after_model.full(shape.name) == 0)
        places = np.flatnonzero(kept)
        if len(places) < 40:
            continue  # no ties were needed
        by_quarter = np.bincount(places * 4 // shape.numel, minlength=4)
        assert by_quarter.min() > len(places) / 8, (shape.name, by_quarter)


def test_candidates_stay_from_all_of_a_layer_and_others_each_time() -> None:
    """As found on MNISTNet: all 132 kept candidates lay in conv2's first 29 %."""
    algorithm, rng = coordinator.feddst(share=0.5), np.random.default_rng(0)
    family = algorithm.plan(LAYERS, [0.1], None, 1)
    places: list[set[int]] = []
    for seed in (1, 2):
        top = family.top
        base = Model(
            top,
            {n: rng.normal(size=k).astype("f4") for n, k in top.counts.items()},
            {},
        )
        sent = []
        for device in range(10):
            weights = {n: base.full(n) for n in top}
            slopes = {n: rng.normal(size=w.shape) for n, w in weights.items()}
            patterns = {n: np.array(top[n]) for n in top}
            moved = Mask(
                regrow(
                    weights,
                    {n: s.astype("f4") for n, s in slopes.items()},
                    patterns, 0.3 + 0.04 * device, f"{device}",
                )
            )  # fmt: skip
            change = {n: np.zeros(k, np.float32) for n, k in moved.counts.items()}
            sent.append(
                Contribution(f"{device}", moved, 1.0, Values(moved.digest, change, {}))
            )
        before = family
        _, family, _ = next_step(algorithm, base, family, sent)
        new = np.flatnonzero(family.top["conv.weight"] & ~before.top["conv.weight"])
        assert len(new) > 60, seed
        assert np.bincount(new * 4 // 5000, minlength=4).min() > len(new) / 8
        places.append(set(new.tolist()))
    assert len(places[0] & places[1]) < 0.5 * len(places[1])


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_its_share_is_a_setting_and_falls_as_a_cosine(share: float) -> None:
    local = coordinator.feddst(share=share, interval=4).local
    rules = [local(RoundContext(no, 40, 0.1)) for no in range(1, 41)]
    for no, rule in enumerate(rules, 1):
        if (no - 1) % 4 or no > 20:
            assert rule == Frozen()
        else:
            fall = 0.5 * (1 + np.cos(np.pi * (no - 1) / 20))
            assert isinstance(rule, Regrow)
            assert rule.share == pytest.approx(share * fall)


def test_salient_weights_are_scored_at_all_sites_over_a_few_batches() -> None:
    assert coordinator.salientgrads().evidence == Saliency(batches=4, everybody=True)
    assert coordinator.salientgrads(batches=1).evidence == Saliency(batches=1)
    assert ALGORITHMS["salientgrads-steps"].evidence == Saliency(batches=4)
    few: Algorithm = coordinator.flash()
    settings: RunSettings = SimpleNamespace(  # type: ignore[assignment]
        cohort=2, warm_up=SimpleNamespace(devices=3), seed=1
    )
    able = {f"d-{no}": 0.2 for no in range(9)}
    for algorithm, wanted in ((few, 3), (coordinator.salientgrads(), 9)):
        draft = draft_round(
            0, able, None, settings=settings, affordable=able, masks=[1.0], asked=0,
            answered=0, everybody=asks_everybody(algorithm),
        )  # fmt: skip
        assert draft is not None
        assert len(draft.cohort) == draft.goal == wanted
    again = draft_round(  # an attempt after one that six of them have answered
        0, dict.fromkeys(list(able)[6:], 0.2), None, settings=settings, affordable=able,
        masks=[1.0], asked=0, answered=0, kept=6, everybody=True,
    )  # fmt: skip
    assert again is not None
    assert (len(again.cohort), again.goal) == (3, 9)


@given(st.lists(st.integers(1, 900), min_size=1, max_size=6), st.integers(0, 99))
def test_ssfl_weights_scores_by_examples(sizes: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    scores = [
        {s.name: rng.exponential(size=s.numel).astype(np.float32) for s in LAYERS}
        for _ in sizes
    ]
    reports = [Values(b"", one, {}) for one in scores]
    found = mean_findings(iter(reports), LAYERS, [float(n) for n in sizes]).saliency
    alike = mean_findings(iter(reports), LAYERS).saliency
    for s in LAYERS:
        every = np.stack([one[s.name].reshape(s.shape) for one in scores])
        want = np.average(every.astype(np.float64), axis=0, weights=sizes)
        np.testing.assert_allclose(found[s.name], want, rtol=1e-6)
        np.testing.assert_allclose(alike[s.name], every.mean(0), rtol=1e-4)
    assert ALGORITHMS["ssfl"].evidence == Saliency(batches=1, by_examples=True)
    with pytest.raises(ValueError, match="zip"):
        mean_findings(iter(reports), LAYERS, [1.0] * (len(sizes) + 1))
