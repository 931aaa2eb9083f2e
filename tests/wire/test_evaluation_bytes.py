"""Bytes of a test on a device, beside those of its round: packets as they travel."""

from __future__ import annotations

import numpy as np
import pytest

from edge_sdk.sparse import draw, exact_counts, uniform
from edge_sdk.tasks.layers import initial_state, layers_of, make_model
from edge_sdk.tasks.task import load_task
from edge_sdk.wire.blob import manifest_of
from edge_sdk.wire.codec import Header, encode
from edge_sdk.wire.messages import Evaluate, Evaluated
from edge_sdk.wire.named import Holdout, MaskRecipe
from edge_sdk.wire.values import Values, pack_values

SIGNATURE = bytes(64)
ID = "0007-0123456789abcdef"


def bytes_of(task_name: str, density: float) -> tuple[int, int]:
    """(model and update, order and answer of a test), of one device and round."""
    task = load_task(task_name)
    layers = layers_of(make_model(task, 0), task.dense_layers)
    counts = exact_counts(uniform(layers), layers, density)
    mask, state = draw(layers, counts, 1), initial_state(task, 1)
    masked = {name: state.pop(name)[mask[name]] for name in mask}
    values, rng = Values(b"", masked, state), np.random.default_rng(1)
    down = pack_values(values, mask, codec="fp16")
    up = pack_values(values, mask, codec="int8", rng=rng)
    recipe = MaskRecipe(seed=1, counts=counts, digest=bytes(range(32)))
    order = Evaluate(
        *(ID, 7, manifest_of(down), recipe, ["accuracy"], Holdout(0.2, 1)),
        measure="classes 0.0",
        program=manifest_of(bytes(30_000)),
        after=ID,
    )
    answer = Evaluated(ID, bytes(range(32)), 120, {"accuracy": [97.0, 120.0]})
    ends = ("coordinator", "pi-1"), ("pi-1", "coordinator")
    packets = [
        encode(
            Header(tag, "home", *end, 3_000_000, 900, 1 << 47, round_no=7),
            message,
            sign=lambda _: SIGNATURE,
        )
        for tag, end, message in (
            ("evaluate", ends[0], order),
            ("evaluated", ends[1], answer),
        )
    ]
    return len(down) + len(up), sum(map(len, packets))


@pytest.mark.parametrize(("task", "density"), [("mnist", 0.05), ("mnist", 0.4)])
def test_a_test_costs_under_three_percent_of_a_round(task: str, density: float) -> None:
    whole, test = bytes_of(task, density)
    assert test < 0.03 * whole


def test_a_test_costs_the_same_of_any_model() -> None:
    """Hence its share is larger where a round itself is a few kilobytes."""
    small, large = bytes_of("digits", 0.1), bytes_of("mnist", 0.4)
    assert large[0] > 20 * small[0]
    assert large[1] < small[1] + 40 * np.ceil(large[0] / 65_536)
    assert small[1] < 1100
