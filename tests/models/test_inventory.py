"""What a mask may act on, and that a run starts the same everywhere."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from edge_sdk import zoo
from edge_sdk.errors import TaskError
from edge_sdk.sparse import LayerShape
from edge_sdk.tasks import load_task
from edge_sdk.tasks.graph.units import with_units
from edge_sdk.tasks.layers import initial_state, layers_of, make_model


@given(widths=st.lists(st.integers(1, 6), min_size=2, max_size=6), data=st.data())
def test_every_linear_weight_is_found_in_module_order_but_the_dense_ones(
    widths: list[int], data: st.DataObject
) -> None:
    sizes = list(pairwise(widths))
    model = nn.Sequential(*(nn.Linear(a, b) for a, b in sizes))
    names = [f"{i}.weight" for i in range(len(sizes))]
    dense = data.draw(st.sets(st.sampled_from(names), max_size=len(names) - 1))
    expected = [
        LayerShape(name, (b, a))
        for name, (a, b) in zip(names, sizes, strict=True)
        if name not in dense
    ]
    assert list(layers_of(model, frozenset(dense))) == expected


def test_convolutions_of_every_kind_come_with_their_groups() -> None:
    model = nn.ModuleDict(
        {
            "one": nn.Conv1d(4, 8, 3, groups=2),
            "two": nn.Conv2d(6, 6, 3, groups=6),
            "three": nn.Conv3d(2, 4, 3),
            "norm": nn.BatchNorm2d(4),
            "up": nn.ConvTranspose2d(4, 4, 2),
            "words": nn.Embedding(5, 4),
        }
    )
    assert layers_of(model) == (
        LayerShape("one.weight", (8, 2, 3), 2),
        LayerShape("two.weight", (6, 1, 3, 3), 6),
        LayerShape("three.weight", (4, 2, 3, 3, 3), 1),
        LayerShape("up.weight", (4, 4, 2, 2), 1),
        LayerShape("words.weight", (5, 4)),
    )


def test_a_bare_layer_is_a_model() -> None:
    assert layers_of(nn.Linear(3, 2)) == (LayerShape("weight", (2, 3)),)


@pytest.mark.parametrize(
    ("model", "dense", "total"),
    [
        pytest.param(
            zoo.MnistNet, {"conv1.weight", "fc2.weight"}, 261_000, id="mnistnet"
        ),
        pytest.param(
            zoo.FemnistCnn, {"conv1.weight", "fc2.weight"}, 6_473_728, id="femnist"
        ),
        pytest.param(zoo.ResNet18Cifar, {"fc.weight"}, 11_159_232, id="resnet18"),
    ],
)
def test_the_maskable_set_is_the_one_flash_counts(
    model: type[nn.Module], dense: set[str], total: int
) -> None:
    assert sum(s.numel for s in layers_of(model(), frozenset(dense))) == total


def test_names_are_state_dict_keys_and_the_shapes_agree() -> None:
    model = zoo.ResNet20()
    state = model.state_dict()
    for layer in layers_of(model):
        assert tuple(state[layer.name].shape) == layer.shape


def test_a_dense_layer_that_does_not_exist_is_named() -> None:
    with pytest.raises(TaskError, match=r"dense_layers names fc9\.weight") as caught:
        layers_of(zoo.MnistNet(), frozenset({"fc9.weight"}))
    assert "fc1.weight" in caught.value.help


@pytest.mark.parametrize(
    ("model", "dense"),
    [
        pytest.param(nn.ReLU(), set(), id="no-weights"),
        pytest.param(nn.Linear(2, 2), {"weight"}, id="all-dense"),
    ],
)
def test_a_model_with_nothing_to_mask_is_refused(
    model: nn.Module, dense: set[str]
) -> None:
    with pytest.raises(TaskError, match="no convolution, linear, recurrent or"):
        layers_of(model, frozenset(dense))


def tied() -> nn.Sequential:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 3))
    model[2].weight = model[0].weight
    return model


def test_a_shared_weight_is_refused_unless_it_is_dense_in_all_its_places() -> None:
    with pytest.raises(TaskError, match=r"0\.weight, 2\.weight"):
        layers_of(tied())
    with pytest.raises(TaskError, match="mask acts on one place"):
        layers_of(tied(), frozenset({"0.weight"}))
    dense = frozenset({"0.weight", "2.weight"})
    assert [s.name for s in layers_of(tied(), dense)] == ["1.weight"]


def test_a_module_used_twice_and_a_tied_embedding_are_shared_too() -> None:
    layer = nn.Linear(3, 3)
    with pytest.raises(TaskError, match="mask acts on one place"):
        layers_of(nn.Sequential(layer, layer))
    words, out = nn.Embedding(5, 4), nn.Linear(4, 5, bias=False)
    out.weight = words.weight
    with pytest.raises(TaskError, match="mask acts on one place"):
        layers_of(nn.Sequential(words, out))


@pytest.mark.filterwarnings("ignore:Lazy modules")
def test_a_lazy_layer_is_refused() -> None:
    with pytest.raises(TaskError, match="no shape before the first batch"):
        layers_of(nn.Sequential(nn.LazyLinear(3)))


def test_a_reparametrised_weight_is_left_dense() -> None:
    normed = nn.utils.parametrizations.spectral_norm(nn.Linear(3, 3))
    model = nn.Sequential(normed, nn.Linear(3, 2))
    assert [s.name for s in layers_of(model)] == ["1.weight"]


def test_of_a_weight_normed_layer_the_direction_is_masked() -> None:
    norm = nn.utils.parametrizations.weight_norm
    model = nn.Sequential(
        norm(nn.Conv1d(2, 3, 3)),
        norm(nn.ConvTranspose1d(3, 4, 2)),
        norm(nn.ConvTranspose1d(4, 6, 2), dim=1),
        norm(nn.ConvTranspose1d(6, 6, 2, groups=2), dim=1),  # its norms cross groups
        norm(nn.Linear(8, 2), dim=1),  # its norms are not of channels
        norm(nn.Linear(2, 2), dim=None),
    )
    found = {s.name[0]: s for s in layers_of(model)}
    assert list(found) == ["0", "1", "2", "5"]
    assert found["0"].name == "0.parametrizations.weight.original1"
    # Each part that has a norm of its own keeps a weight.
    assert [s.least for s in found.values()] == [3, 3, 6, 2]
    assert with_units(model, layers_of(model)) == layers_of(model)


@given(seed=st.integers(0, 2**63 - 1))
def test_the_same_seed_gives_the_same_model(seed: int) -> None:
    task = load_task("digits")
    first, second = initial_state(task, seed), initial_state(task, seed)
    assert first.keys() == second.keys() == make_model(task, 0).state_dict().keys()
    for name in first:
        np.testing.assert_array_equal(first[name], second[name])


def test_another_seed_gives_another_model() -> None:
    task = load_task("digits")
    key = "fc1.weight"
    assert not np.array_equal(initial_state(task, 1)[key], initial_state(task, 2)[key])


def test_making_a_model_leaves_the_caller_s_generator_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    initial_state(load_task("digits"), 7)
    assert torch.equal(torch.rand(3), expected)


def test_the_initial_state_owns_its_memory_and_keeps_buffers() -> None:
    task = replace(load_task("digits"), model=zoo.ResNet20)
    state = initial_state(task, 0)
    assert state["norm1.num_batches_tracked"].shape == ()
    assert state["norm1.running_var"].dtype == np.float32
    state["conv1.weight"][...] = 0.0
    assert initial_state(task, 0)["conv1.weight"].any()


def test_a_factory_that_returns_no_module_is_a_task_error() -> None:
    task = replace(load_task("digits"), model=lambda: "a model")  # type: ignore[arg-type, return-value]
    with pytest.raises(TaskError, match="digits: model\\(\\) returned a str"):
        make_model(task, 0)


def test_a_head_tied_to_an_embedding_is_kept_dense_as_the_message_says() -> None:
    """By both names, or by the head's alone, as in 0.1.0."""
    model = nn.ModuleDict(
        {"e": nn.Embedding(9, 4), "h": nn.Linear(4, 4), "o": nn.Linear(4, 9)}
    )
    model["o"].weight = model["e"].weight
    with pytest.raises(TaskError, match="one weight has the names") as caught:
        layers_of(model)
    assert "frozenset({'e.weight', 'o.weight'})" in caught.value.help
    for dense in ({"o.weight"}, {"e.weight", "o.weight"}):
        assert [s.name for s in layers_of(model, frozenset(dense))] == ["h.weight"]
