from __future__ import annotations

import dataclasses
import math

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from device_profiles import (
    Caps,
    DeviceProfile,
    LayerLoad,
    ProfileError,
    Workload,
    boards,
    cost_of,
    largest_density,
    load_board,
)

PI = load_board("raspberry_pi_4b_4gb")
LADDER = (0.05, 0.1, 0.2)

layers = st.lists(
    st.builds(
        LayerLoad,
        name=st.just("w"),
        numel=st.integers(1, 10**6),
        macs=st.integers(1, 10**8),
        masked=st.booleans(),
    ),
    min_size=1,
    max_size=6,
)
workloads = st.builds(
    Workload,
    layers=layers.map(lambda some: (*some, LayerLoad("m", 1_000, 10_000))),
    other_numel=st.integers(0, 10**4),
    activations=st.integers(1, 10**6),
    input_bytes=st.integers(0, 10**5),
    examples=st.integers(1, 10**5),
    epochs=st.integers(1, 10),
    batch=st.integers(1, 256),
)
profiles = st.sampled_from([load_board(name) for name in boards()])
densities = st.floats(0.01, 1.0)


@given(profiles, workloads, densities, densities, st.sampled_from(["masked", "sparse"]))
def test_a_higher_density_never_costs_less(
    profile: DeviceProfile, workload: Workload, one: float, other: float, engine: str
) -> None:
    low, high = (
        cost_of(profile, workload, d, engine=engine)  # type: ignore[arg-type]
        for d in sorted((one, other))
    )
    for field in dataclasses.fields(low):
        assert getattr(low, field.name) <= getattr(high, field.name)


@given(profiles, workloads, st.lists(densities, min_size=1, max_size=5), st.data())
def test_the_choice_fits_and_the_next_higher_density_does_not(
    profile: DeviceProfile, workload: Workload, ladder: list[float], data: st.DataObject
) -> None:
    budget_s = data.draw(st.floats(0.01, 1e5))
    choice = largest_density(profile, workload, ladder, budget_s)

    def fits(density: float, seconds: float = budget_s) -> bool:
        cost = cost_of(profile, workload, density)
        return (
            cost.seconds <= seconds
            and cost.peak_mib <= profile.ram_mib
            and cost.disk_mib <= profile.disk_free_mib
        )

    inside = max(filter(fits, ladder), default=None)
    if inside is None and choice.density is not None:  # with a part of its steps
        assert choice.density == min(ladder)
        assert fits(min(ladder), math.inf)
        assert " steps a round, because all need " in choice.why
    else:
        assert choice.density == inside
        assert ("because" in choice.why) == (choice.density != max(ladder))
    assert set(choice.costs) == set(ladder)


def test_a_round_of_mnistnet_moves_the_bytes_of_the_wire_table(
    mnistnet: Workload,
) -> None:
    """Kept values plus the dense remainder: 261,840 parameters in all."""
    assert mnistnet.masked_numel + mnistnet.dense_numel == 261_840
    dense = cost_of(PI, mnistnet, 1.0).bytes_up
    assert dense == 4 * 261_840
    for density, ratio in ((0.2, 4.94), (0.1, 9.72), (0.05, 18.85)):
        up = cost_of(PI, mnistnet, density).bytes_up
        assert up == 4 * (round(density * 261_000) + 840)
        assert dense / up == pytest.approx(ratio, rel=1e-3)
    half = cost_of(PI, mnistnet, 0.1, value_bytes=2.0)
    assert half.bytes_up == 2 * 26_100 + 4 * 840


def test_seconds_of_a_hand_worked_example() -> None:
    """Every term apart: arithmetic, traffic, steps, link, round trips."""
    profile = msgspec.structs.replace(
        PI,
        train_gflops=0.006,
        memory_gb_s=1e6,
        step_overhead_ms=100.0,
        uplink_mbit_s=0.0352,
        downlink_mbit_s=0.0352,
        rtt_ms=50.0,
        watts=2.0,
    )
    load = Workload(
        layers=(LayerLoad("a", 100, 1_000, masked=False), LayerLoad("b", 1_000, 1_000)),
        other_numel=10,
        activations=1,
        input_bytes=0,
        examples=10,
        batch=5,
    )
    cost = cost_of(profile, load, 0.1, engine="masked")
    assert cost.bytes_up == 4 * (100 + 110)
    training = 10 * 6 * 2_000 / 6e6 + 2 * 0.1
    link = 2 * 8 * 840 / 35_200
    assert cost.seconds == pytest.approx(training + link + 6 * 0.05, rel=1e-6)
    assert cost.joules == pytest.approx(2 * training, rel=1e-6)
    halved = msgspec.structs.replace(profile, caps=Caps(cpu_share=0.5))
    later = cost_of(halved, load, 0.1, engine="masked").seconds
    assert later - cost.seconds == pytest.approx(training, rel=1e-6)


def test_the_masked_engine_saves_bytes_but_neither_time_nor_memory(
    mnistnet: Workload,
) -> None:
    masked = cost_of(PI, mnistnet, 0.05, engine="masked")
    sparse = cost_of(PI, mnistnet, 0.05, engine="sparse")
    assert masked.bytes_up == sparse.bytes_up
    assert masked.seconds > sparse.seconds
    assert masked.peak_mib > sparse.peak_mib


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"ram_mib": 200}, "MiB of 200"),
        ({"uplink_mbit_s": 0.01}, " s of 12"),
        ({"disk_free_mib": 1, "ram_mib": 100}, "MiB of 100"),
        ({"caps": Caps(ram_mib=100)}, "MiB of 100"),
        ({"caps": Caps(bytes_per_round=100)}, "bytes of 100"),
        ({"caps": Caps(joules_per_round=1.0)}, " J of 1"),
    ],
)
def test_a_board_that_affords_nothing_is_told_what_it_lacks(
    mnistnet: Workload, change: dict[str, object], said: str
) -> None:
    poor = msgspec.structs.replace(PI, **change)  # type: ignore[arg-type]
    choice = largest_density(poor, mnistnet, LADDER, 12.0)
    assert choice.density is None
    assert choice.why.startswith("because 0.05 needs ")
    assert said in choice.why
    assert choice.sentence("pi-7").startswith("pi-7: cannot take part, because 0.05")


@pytest.mark.parametrize(
    "change", [{"train_gflops": 0.1}, {"caps": Caps(cpu_share=0.01)}]
)
def test_a_board_that_is_only_slow_takes_part_with_the_steps_that_fit(
    mnistnet: Workload, change: dict[str, object]
) -> None:
    slow = msgspec.structs.replace(PI, **change)  # type: ignore[arg-type]
    choice = largest_density(slow, mnistnet, LADDER, 12.0)
    assert choice.density == 0.05
    assert choice.why.startswith("because 0.10 needs ")
    assert f" of {mnistnet.steps} steps a round, because all need " in choice.why
    alone = largest_density(slow, mnistnet, (0.05,), 12.0)
    assert alone.density == 0.05
    assert not alone.why.startswith("because")
    # Not one step beside the link, and time refuses it after all.
    assert largest_density(slow, mnistnet, LADDER, 0.05).density is None


def test_most_steps_bound_time_and_nothing_else(mnistnet: Workload) -> None:
    few = dataclasses.replace(mnistnet, max_steps=10)
    assert (few.steps, mnistnet.steps) == (10, 235)
    whole, part = (cost_of(PI, load, 0.1) for load in (mnistnet, few))
    assert part.training_seconds == pytest.approx(
        whole.training_seconds * 10 / 235, rel=0.01
    )
    assert part.peak_mib == whole.peak_mib
    assert dataclasses.replace(mnistnet, max_steps=10**6).steps == mnistnet.steps


def test_the_sentence_names_need_unit_and_have(mnistnet: Workload) -> None:
    tight = msgspec.structs.replace(PI, ram_mib=229)
    choice = largest_density(tight, mnistnet, LADDER, 12.0)
    assert choice.sentence("pi-7") == "pi-7: 0.10, because 0.20 needs 230 MiB of 229"
    roomy = largest_density(PI, mnistnet, LADDER, 12.0)
    assert "0.20, the highest of the ladder" in roomy.sentence("pi-7")


def test_the_runs_caps_tighten_the_owners(mnistnet: Workload) -> None:
    lent = msgspec.structs.replace(PI, caps=Caps(cpu_share=0.4))
    assert largest_density(lent, mnistnet, LADDER, 12.0).density == 0.1
    run = Caps(cpu_share=0.9, ram_mib=100)
    assert largest_density(lent, mnistnet, LADDER, 12.0, run).density is None


@pytest.mark.parametrize("ladder", [(), (0.0,), (0.1, 1.5), (float("nan"),)])
def test_a_ladder_that_cannot_be_is_refused(
    mnistnet: Workload, ladder: tuple[float, ...]
) -> None:
    with pytest.raises(ProfileError, match="ladder"):
        largest_density(PI, mnistnet, ladder, 12.0)


@pytest.mark.parametrize("budget_s", [0.0, -1.0, float("nan")])
def test_a_round_without_time_is_refused(mnistnet: Workload, budget_s: float) -> None:
    with pytest.raises(ProfileError, match="round_budget_s"):
        largest_density(PI, mnistnet, LADDER, budget_s)


@pytest.mark.parametrize(
    "change",
    [
        {"examples": 0},
        {"batch": 0},
        {"epochs": 0},
        {"activations": 0},
        {"other_numel": -1},
        {"layers": ()},
        {"layers": (LayerLoad("w", 0, 1),)},
    ],
)
def test_a_workload_that_cannot_be_is_refused(
    mnistnet: Workload, change: dict[str, object]
) -> None:
    with pytest.raises(ProfileError, match="workload"):
        dataclasses.replace(mnistnet, **change)  # type: ignore[arg-type]
