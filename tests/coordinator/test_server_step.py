"""Server optimizers: against plain numpy, with masks that differ, on disk and off."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import nn

import coordinator
from coordinator.algorithms.base import Algorithm, MaskFamily
from coordinator.algorithms.load import check_algorithm, name_of
from coordinator.algorithms.mean import Contribution, Model
from coordinator.checkpoints.models import ModelStore
from coordinator.rounds.round_step import first_model, next_step, with_state
from coordinator.settings import load_run
from edge_sdk.errors import RunError, SettingsError
from edge_sdk.sparse import LayerShape, Mask
from edge_sdk.tasks.layers import initial_state, layers_of
from edge_sdk.tasks.task import Task
from edge_sdk.wire.values import Values

LAYERS = (LayerShape("fc.weight", (6, 8)), LayerShape("out.weight", (3, 6)))
Array = NDArray[np.float64]


def momentum(changes: list[Array]) -> Array:
    """FedAvgM's walk, as Hsu et al. write it."""
    x, v = np.zeros_like(changes[0]), np.zeros_like(changes[0])
    for change in changes:
        v = 0.9 * v + change
        x = x + v
    return x


def adam(changes: list[Array]) -> Array:
    """FedAdam's walk, as Reddi et al. write it: beta2 .99, tau .001, no correction."""
    x, m = np.zeros_like(changes[0]), np.zeros_like(changes[0])
    v = np.full_like(changes[0], 1e-6)
    for change in changes:
        m = 0.9 * m + 0.1 * change
        v = 0.99 * v + 0.01 * change * change
        x = x + 0.01 * m / (np.sqrt(v) + 0.001)
    return x


def yogi(changes: list[Array]) -> Array:
    """FedYogi's walk: v comes nearer to the square by at most a hundredth of it."""
    x, m = np.zeros_like(changes[0]), np.zeros_like(changes[0])
    v = np.full_like(changes[0], 1e-6)
    for change in changes:
        square = change * change
        m = 0.9 * m + 0.1 * change
        v = np.where(v > square, v - 0.01 * square, v + 0.01 * square)
        x = x + 0.01 * m / (np.sqrt(v) + 0.001)
    return x


OPTIMIZERS: list[tuple[Callable[..., Algorithm], Callable[[list[Array]], Array]]] = [
    (coordinator.fedavgm, momentum),
    (coordinator.fedadam, adam),
    (coordinator.fedyogi, yogi),
]
each = pytest.mark.parametrize(
    ("make", "walk"), OPTIMIZERS, ids=[make.__name__ for make, _ in OPTIMIZERS]
)


def dense_start(algorithm: Algorithm) -> tuple[Model, MaskFamily]:
    """A model of zeros on full masks, with norm statistics and a counter."""
    family = MaskFamily.draw(LAYERS, {1.0: {s.name: s.numel for s in LAYERS}}, 1)
    state: dict[str, Any] = {s.name: np.zeros(s.shape, np.float32) for s in LAYERS}
    state |= {
        "bias": np.zeros(3, np.float32),
        "bn.running_mean": np.zeros(6, np.float32),
        "bn.running_var": np.ones(6, np.float32),
        "bn.num_batches_tracked": np.array(0),
    }
    top = family.top
    masked = {n: state[n][top[n]] for n in top}
    model = Model(top, masked, {n: a for n, a in state.items() if n not in masked})
    trained = replace(model, dense={"bias": model.dense["bias"]})
    assert algorithm.init_state is not None
    return replace(model, state=algorithm.init_state(trained)), family


def sent(mask: Mask, rng: np.random.Generator, device: str = "a-1") -> Contribution:
    change: dict[str, Any] = {
        n: rng.normal(size=k).astype(np.float32) for n, k in mask.counts.items()
    }
    dense = {
        "bias": rng.normal(size=3).astype(np.float32),
        "bn.running_mean": rng.normal(size=6).astype(np.float32),
        "bn.running_var": -rng.uniform(0, 0.1, size=6).astype(np.float32),
        "bn.num_batches_tracked": np.array(4),
    }
    return Contribution(device, mask, 5.0, Values(mask.digest, change, dense))


@each
def test_it_walks_as_published(
    make: Callable[..., Algorithm], walk: Callable[[list[Array]], Array]
) -> None:
    algorithm = make()
    model, family = dense_start(algorithm)
    rng = np.random.default_rng(0)
    weights, biases = [], []
    for _ in range(6):
        one = sent(family.top, rng)
        weights.append(one.change.masked["fc.weight"].astype(np.float64))
        biases.append(one.change.dense["bias"].astype(np.float64))
        model, family, _ = next_step(algorithm, model, family, [one])
    np.testing.assert_allclose(
        model.masked["fc.weight"], walk(weights), rtol=1e-4, atol=1e-5
    )
    np.testing.assert_allclose(model.dense["bias"], walk(biases), rtol=1e-4, atol=1e-5)


@each
def test_norm_statistics_are_the_means_own(
    make: Callable[..., Algorithm], walk: Any
) -> None:
    """Momentum drives a variance that falls round after round below 0."""
    algorithm, plain = make(), coordinator.fedavg()
    model, family = dense_start(algorithm)
    mean = replace(model, state={})
    rng = np.random.default_rng(1)
    for _ in range(9):
        one = sent(family.top, rng)
        model, _, _ = next_step(algorithm, model, family, [one])
        mean, _, _ = next_step(plain, mean, family, [one])
    for name in ("bn.running_mean", "bn.running_var", "bn.num_batches_tracked"):
        np.testing.assert_array_equal(model.dense[name], mean.dense[name])
    assert (model.dense["bn.running_var"] >= 0).all()
    assert {n for q in model.state.values() for n in q} == {
        "bias", "fc.weight", "out.weight",
    }  # fmt: skip


@each
@given(st.integers(0, 99))
def test_a_weight_that_nobody_held_keeps_value_and_moments(
    make: Callable[..., Algorithm], walk: Any, seed: int
) -> None:
    algorithm = make()
    model, family = dense_start(algorithm)
    rng = np.random.default_rng(seed)
    model, _, _ = next_step(algorithm, model, family, [sent(family.top, rng)])
    some = Mask({n: rng.random(family.top[n].shape) < 0.4 for n in family.top})
    after, _, _ = next_step(algorithm, model, family, [sent(some, rng)])
    for name in some:
        bare = ~some[name][family.top[name]]
        np.testing.assert_array_equal(
            after.masked[name][bare], model.masked[name][bare]
        )
        for quantity, entries in model.state.items():
            np.testing.assert_array_equal(
                after.state[quantity][name][bare], entries[name][bare]
            )


@pytest.mark.parametrize("inner", ["flash_edge", "feddst", "jmwst", "hetero_flash"])
@each
def test_it_takes_over_another_algorithms_masks(
    make: Callable[..., Algorithm], walk: Any, inner: str
) -> None:
    on = getattr(coordinator, inner)()
    algorithm = make(on=on)
    assert check_algorithm(algorithm) is algorithm
    assert algorithm.name == name_of(algorithm) == f"{make.__name__}-on-{on.name}"
    slots = ("evidence", "plan", "assign", "local", "revise", "start")
    assert [getattr(algorithm, s) for s in slots] == [getattr(on, s) for s in slots]


def test_moments_move_with_their_weights_when_the_mask_does() -> None:
    algorithm = coordinator.fedavgm(on=coordinator.jmwst())
    family = MaskFamily.draw(LAYERS, {0.5: {"fc.weight": 24, "out.weight": 9}}, 1)
    top, rng = family.top, np.random.default_rng(3)
    masked = {n: rng.normal(size=k).astype(np.float32) for n, k in top.counts.items()}
    model = Model(top, masked, {})
    assert algorithm.init_state is not None
    model = replace(model, state=algorithm.init_state(model))
    other = MaskFamily.draw(LAYERS, {0.5: {"fc.weight": 24, "out.weight": 9}}, 2).top
    change = {n: np.ones(k, np.float32) for n, k in other.counts.items()}
    one = Contribution("a-1", other, 1.0, Values(other.digest, change, {}))
    after, masks, _ = next_step(algorithm, model, family, [one])
    assert masks.top.digest != top.digest
    for name in masks.top:
        held = other[name]
        moments = after._spread(name, after.state["momentum"][name])
        kept = masks.top[name] & held
        # One round after zero moments the momentum is the mean's change: the weight's
        # new value less the one before, which is 0 where the old mask held nothing.
        moved = after.full(name) - model.onto(masks.top).full(name)
        np.testing.assert_allclose(moments[kept], moved[kept], atol=1e-6)


def test_an_algorithm_that_remembers_takes_no_second_memory() -> None:
    with pytest.raises(SettingsError, match="keeps a state of its own"):
        coordinator.fedadam(on=coordinator.fedavgm())


def test_an_aggregate_that_forgets_is_named() -> None:
    forgets = replace(coordinator.fedavgm(), aggregate=coordinator.fedavg().aggregate)
    with pytest.raises(SettingsError, match="slot aggregate gave a model with the"):
        check_algorithm(forgets)
    model, family = dense_start(forgets)
    one = sent(family.top, np.random.default_rng(0))
    with pytest.raises(RunError, match=r"state \[\], its base has \['momentum'\]"):
        next_step(forgets, model, family, [one])


@pytest.mark.parametrize("wrong", [3, {"v": 3}, {"v": {"fc.weight": 3}}, []])
def test_a_wrong_first_state_is_named(wrong: Any) -> None:
    mine = replace(coordinator.fedavgm(), init_state=lambda _model: wrong)
    with pytest.raises(SettingsError, match="slot init_state gave a"):
        check_algorithm(mine)
    nothing: Any = lambda: {}  # noqa: E731, PIE807 - a slot that takes no model
    takes = replace(coordinator.fedavgm(), init_state=nothing)
    with pytest.raises(SettingsError, match="slot init_state takes"):
        check_algorithm(takes)


def test_a_trimmed_mean_does_not_silently_drop_the_server_step(tmp_path: Path) -> None:
    run = tmp_path / "run.toml"
    run.write_text(
        'federation = "test"\ntask = "digits"\nevaluation = "data"\ndensities = [0.1]\n'
        'rounds = 2\nalgorithm = "fedadam"\naggregate = "trimmed-mean"\n',
        encoding="utf-8",
    )
    with pytest.raises(SettingsError, match="server step of fedadam"):
        load_run(run)


class Net(nn.Module):
    """A norm, a frozen weight and a buffer of its own beside what is trained."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.bn = nn.Linear(8, 6, bias=False), nn.BatchNorm1d(6)
        self.out = nn.Linear(6, 3)
        self.gain = nn.Parameter(torch.ones(1), requires_grad=False)
        self.register_buffer("mean_of_my_own", torch.zeros(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.out(torch.relu(self.bn(self.fc(x)))) * self.gain
        return found


def task() -> Task:
    def none(folder: Path) -> Any:
        raise AssertionError(folder)

    return Task(
        name="net", model=Net, input_shape=(8,), train_data=none,
        eval_data=none, loss=nn.functional.cross_entropy,
    )  # fmt: skip


def test_only_what_training_moves_is_remembered_and_it_survives_the_disk(
    tmp_path: Path,
) -> None:
    algorithm, net = coordinator.fedadam(on=coordinator.fedavg()), task()
    layers = layers_of(Net(), frozenset())
    family = algorithm.plan(layers, [1.0], None, 1)
    model = first_model(algorithm, net, 1, family, None)
    assert set(model.state) == {"momentum", "variance"}
    assert set(model.state["momentum"]) == {
        "fc.weight", "out.weight", "bn.weight", "bn.bias", "out.bias",
    }  # fmt: skip
    folder = tmp_path / "run"
    store = ModelStore(folder, "net", layers)
    rng = np.random.default_rng(0)
    kept = {
        q: {n: rng.normal(size=a.shape).astype(np.float32) for n, a in of.items()}
        for q, of in model.state.items()
    }
    store.save("round-00001.safetensors", replace(model, state=kept), 1)
    again = store.load("round-00001.safetensors")
    assert set(again.state) == set(kept)
    for quantity, entries in kept.items():
        assert set(again.state[quantity]) == set(entries)
        for name, array in entries.items():
            np.testing.assert_array_equal(again.state[quantity][name], array)
    # What is deployed has none of it.
    found = store.deploy(replace(model, state=kept), family, 1, {})
    assert b"momentum" not in next(iter(found.values())).read_bytes()


def test_a_checkpoint_without_state_is_read_and_begins_one(tmp_path: Path) -> None:
    plain, algorithm, net = coordinator.fedavg(), coordinator.fedavgm(), task()
    layers = layers_of(Net(), frozenset())
    family = plain.plan(layers, [1.0], None, 1)
    model = first_model(plain, net, 1, family, None)
    store = ModelStore(tmp_path, "net", layers)
    store.save("round-00001.safetensors", model, 1)
    old = store.load("round-00001.safetensors")
    assert old.state == {}
    assert with_state(plain, net, old) is old
    begun = with_state(algorithm, net, old)
    assert not begun.state["momentum"]["fc.weight"].any()
    assert with_state(algorithm, net, begun) is begun
    assert initial_state(net, 1)["fc.weight"].shape == (6, 8)
