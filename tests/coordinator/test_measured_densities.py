"""Which network's norm statistics each device measures in rounds that move nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from coordinator.algorithms.mean import Model
from coordinator.rounds.tasks import measured_at
from coordinator.settings import RunSettings, TrainingSettings
from edge_sdk.sparse import Mask

DENSITIES = [0.05, 0.1, 0.2, 0.4]
PLAIN = Model(Mask({"a": np.ones((2, 2), np.bool_)}), {}, {})
NORMED = Model(PLAIN.mask, {}, {}, norms={"00": {"running_mean": np.zeros(1)}})


def settings(rounds: int, recalibrate: int, densities: list[float]) -> RunSettings:
    return RunSettings(
        federation="demo",
        task="digits",
        evaluation=Path("eval"),
        densities=densities,
        rounds=rounds,
        training=TrainingSettings(recalibrate=recalibrate),
    )


def test_the_last_rounds_go_down_the_ladder() -> None:
    own = {"a": 0.2, "b": 0.1, "c": 0.05}
    run = settings(9, 3, [0.05, 0.1, 0.2])
    found = [tuple(measured_at(own, NORMED, run, p).values()) for p in range(6, 10)]
    assert found[:2] == [(0.2, 0.1, 0.05)] * 2
    assert found[2:] == [(0.1, 0.1, 0.05), (0.05, 0.05, 0.05)]


@given(
    densities=st.lists(st.sampled_from(DENSITIES), min_size=1, unique=True),
    recalibrate=st.integers(0, 6),
    moving=st.integers(1, 5),
    data=st.data(),
)
def test_each_network_is_measured_last_by_all_that_hold_it(
    densities: list[float], recalibrate: int, moving: int, data: st.DataObject
) -> None:
    own = data.draw(
        st.dictionaries(st.text("abc", min_size=1), st.sampled_from(densities))
    )
    run = settings(moving + recalibrate, recalibrate, densities)
    found = {
        place: measured_at(own, NORMED, run, place) for place in range(run.rounds + 1)
    }
    for place, measured in found.items():
        assert set(measured) == set(own)
        assert all(density <= own[device] for device, density in measured.items())
        assert measured_at(own, PLAIN, run, place) == own
        if place <= moving + (recalibrate > 0):
            assert measured == own
    for density in densities:
        if recalibrate < len(densities):  # too few rounds for all of them
            continue
        last = [
            {device for device, at in measured.items() if at == density}
            for place, measured in found.items()
            if place > moving and density in measured.values()
        ]
        holders = {device for device, at in own.items() if at >= density}
        assert not last or last[-1] <= holders
        if density < max(densities) and holders:
            assert holders in last
