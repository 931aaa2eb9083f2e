"""What a run starts from: the seed's weights, scaled, or those of its warm-up."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from coordinator.algorithms.base import MaskFamily, Start, as_initialised
from coordinator.algorithms.evidence import WarmUpResult
from coordinator.algorithms.findings import trained_findings
from coordinator.algorithms.initial_weights import from_the_warm_up, scaled_by_fan_in
from coordinator.algorithms.mean import Contribution, Model
from edge_sdk.errors import RunError
from edge_sdk.sparse import LayerShape, Mask, nested_counts, uniform
from edge_sdk.tasks.layers import initial_state, layers_of
from edge_sdk.tasks.task import load_task
from edge_sdk.wire.values import Values

LAYERS = (LayerShape("conv.weight", (8, 4, 3, 3)), LayerShape("fc.weight", (10, 32)))
STATE = {s.name: np.full(s.shape, 0.5, np.float32) for s in LAYERS}
STATE["bias"] = np.ones(10, np.float32)


def family(density: float, seed: int = 1) -> MaskFamily:
    counts = nested_counts(uniform(LAYERS), LAYERS, [density])
    return MaskFamily.draw(LAYERS, counts, seed)


@given(st.floats(0.12, 1.0), st.integers(0, 50))
def test_scaled_units_have_the_norm_of_their_dense_selves(
    density: float, seed: int
) -> None:
    one = family(density, seed)
    model = scaled_by_fan_in(one, STATE, None)
    for layer in LAYERS:
        weight = model.full(layer.name).reshape(layer.shape[0], -1)
        dense = STATE[layer.name].reshape(layer.shape[0], -1)
        np.testing.assert_allclose(
            np.linalg.norm(weight, axis=1), np.linalg.norm(dense, axis=1), rtol=1e-5
        )
        assert not model.full(layer.name)[~one.top[layer.name]].any()
    np.testing.assert_array_equal(model.dense["bias"], STATE["bias"])


def warmed() -> tuple[WarmUpResult, Mask]:
    """Two devices whose masks have moved; where both keep a weight it is 1 and 3."""
    base = as_initialised(family(0.3), STATE, None)
    first, second = family(0.3, seed=2).top, family(0.3, seed=3).top
    updates = []
    for device, mask, value in (("a", first, 1.0), ("b", second, 3.0)):
        change = {n: (value - base.full(n)[mask[n]]).astype(np.float32) for n in mask}
        values = Values(mask.digest, change, {"bias": np.full(10, value, np.float32)})
        updates.append(Contribution(device, mask, 5, values))
    findings = trained_findings(base, updates)
    assert findings.kept == {n: float(first.counts[n]) for n in first}
    assert findings.model is not None
    return findings, Mask({n: first[n] & second[n] for n in first})


def test_a_warm_start_takes_the_mean_of_those_that_kept_a_weight() -> None:
    findings, both = warmed()
    assert findings.model is not None
    model = from_the_warm_up(family(0.4), STATE, findings)
    for name in model.mask:
        weight, held = model.full(name), findings.model.mask[name]
        here = model.mask[name]
        np.testing.assert_array_equal(weight[here & ~held], 0.5)  # nobody kept it
        np.testing.assert_allclose(weight[here & both[name]], 2.0)
        alone = weight[here & held & ~both[name]]
        assert set(np.unique(alone)) <= {np.float32(1.0), np.float32(3.0)}
    np.testing.assert_allclose(model.dense["bias"], 3.0)  # 1 plus the mean change of 2


def test_a_warm_start_needs_a_warm_up() -> None:
    for findings in (None, WarmUpResult(kept={"conv.weight": 1.0})):
        with pytest.raises(RunError, match="there is none"):
            from_the_warm_up(family(0.3), STATE, findings)


def test_what_nobody_scales_is_what_the_seed_gives() -> None:
    model = as_initialised(family(0.3), STATE, None)
    assert isinstance(model, Model)
    assert all((values == 0.5).all() for values in model.masked.values())


@pytest.mark.parametrize("name", ["digits", "watch"])
def test_thin_layers_whisper_and_scaled_ones_speak_up(name: str) -> None:
    """Deviation of the logits over examples, against that of the dense model."""
    task = load_task(name)
    layers = layers_of(task.model(), task.dense_layers)
    inputs = torch.randn(200, *task.input_shape, generator=torch.manual_seed(1))
    state = initial_state(task, 1)

    def spread(density: float, start: Start) -> float:
        counts = nested_counts(uniform(layers), layers, [density])
        first = start(MaskFamily.draw(layers, counts, 1), state, None)
        model = task.model()
        whole = {**first.dense, **{n: first.full(n) for n in first.mask}}
        model.load_state_dict({n: torch.from_numpy(a) for n, a in whole.items()})
        with torch.inference_mode():
            return float(model(inputs).std(0).mean())

    dense = spread(1.0, as_initialised)
    assert spread(0.1, as_initialised) < dense / 5
    assert dense / 2 < spread(0.1, scaled_by_fan_in) < dense * 2
