from __future__ import annotations

import msgspec
import pytest

from coordinator.densities import (
    assign,
    corrected,
    drift_of,
)
from device_profiles import Caps, LayerLoad, ProfileError, Workload, load_board

LADDER = (0.05, 0.1, 0.2)
ZERO, PI4, ORIN = (
    load_board(name)
    for name in ("raspberry_pi_zero_2_w", "raspberry_pi_4b_4gb", "jetson_orin_nano")
)
DEMO = {"zero": ZERO, "pi": PI4, "orin": ORIN}
MNISTNET = Workload(
    layers=(
        LayerLoad("conv1.weight", 250, 24 * 24 * 250, masked=False),
        LayerLoad("conv2.weight", 5_000, 18 * 18 * 5_000),
        LayerLoad("fc1.weight", 256_000, 256_000),
        LayerLoad("fc2.weight", 500, 500, masked=False),
    ),
    other_numel=90,
    activations=5_760 + 2 * 4_840 + 6_480 + 2 * 5_120 + 2 * 50 + 10,
    input_bytes=784,
    examples=7_500,
)


def test_the_three_demo_boards_get_three_densities() -> None:
    """Time binds the Zero 2 W, and 36 J a round the Pi 4B (34 J at 0.1, 42 at 0.2).

    Time alone cannot do it: a Pi 4B finishes 0.2 in half the time that a Zero 2 W
    needs for 0.05, because most of a step is paid at any density.
    """
    chosen = assign(DEMO, MNISTNET, LADDER, caps=Caps(joules_per_round=36.0))
    assert {name: choice.density for name, choice in chosen.items()} == {
        "zero": 0.05,
        "pi": 0.1,
        "orin": 0.2,
    }
    assert "because 0.10 needs 13.2 s of 12" in chosen["zero"].why
    assert "because 0.20 needs 41.8 J of 36" in chosen["pi"].why


def test_an_owner_who_lends_a_part_of_the_processor_gets_less() -> None:
    lent = msgspec.structs.replace(PI4, caps=Caps(cpu_share=0.4))
    chosen = assign({"all": PI4, "part": lent}, MNISTNET, LADDER)
    assert (chosen["all"].density, chosen["part"].density) == (0.2, 0.1)


def test_no_round_budget_alone_gives_these_boards_three_densities() -> None:
    pi_high = assign(DEMO, MNISTNET, LADDER)["pi"].costs[0.2].seconds
    zero_low = assign(DEMO, MNISTNET, LADDER)["zero"].costs[0.05].seconds
    assert pi_high < zero_low


def test_a_device_with_fewer_examples_affords_more() -> None:
    two = {"much": ZERO, "little": ZERO}
    chosen = assign(two, MNISTNET, LADDER, examples={"little": 2_000})
    assert (chosen["much"].density, chosen["little"].density) == (0.05, 0.2)


def test_a_device_that_fits_nothing_keeps_its_place_with_a_reason() -> None:
    tiny = msgspec.structs.replace(ZERO, ram_mib=100)
    chosen = assign({"tiny": tiny, "orin": ORIN}, MNISTNET, LADDER)
    assert chosen["tiny"].density is None
    assert "MiB of 100" in chosen["tiny"].sentence("tiny")
    assert chosen["orin"].density == 0.2


def test_what_no_fleet_can_do_is_refused() -> None:
    with pytest.raises(ProfileError, match="ladder"):
        assign(DEMO, MNISTNET, ())
    with pytest.raises(ProfileError, match="examples"):
        assign(DEMO, MNISTNET, LADDER, examples={"pi": 0})


def test_position_and_company_do_not_matter() -> None:
    together = assign(DEMO, MNISTNET, LADDER)
    backwards = assign(dict(reversed(DEMO.items())), MNISTNET, LADDER)
    assert together == backwards
    for name, profile in DEMO.items():
        assert assign({name: profile}, MNISTNET, LADDER)[name] == together[name]


# -- profiles that do not hold ---


def test_a_profile_that_lies_five_times_is_noticed_and_said() -> None:
    found = drift_of("pi-7", predicted_s=3.0, observed_s=15.0, rounds=2)
    assert found is not None
    assert found.sentence == (
        "pi-7: training takes 5.0 times the 3.0 s of its profile; profile it again"
    )
    quick = drift_of("pi-7", predicted_s=3.0, observed_s=1.0, rounds=2)
    assert quick is not None
    assert quick.times < 1


@pytest.mark.parametrize(
    ("observed_s", "rounds"), [(3.2, 9), (5.9, 9), (1.6, 9), (15.0, 1), (0.0, 9)]
)
def test_noise_and_a_single_bad_round_are_no_drift(
    observed_s: float, rounds: int
) -> None:
    assert drift_of("pi", predicted_s=3.0, observed_s=observed_s, rounds=rounds) is None


def test_a_corrected_profile_predicts_what_was_observed() -> None:
    honest = assign({"pi": PI4}, MNISTNET, LADDER)["pi"]
    told = honest.costs[0.2].training_seconds
    found = drift_of("pi", predicted_s=told, observed_s=5 * told, rounds=3)
    assert found is not None
    slower = corrected(PI4, found)
    after = assign({"pi": slower}, MNISTNET, LADDER)["pi"]
    assert after.costs[0.2].training_seconds == pytest.approx(5 * told, rel=1e-6)
    assert after.density is None or after.density < honest.density  # type: ignore[operator]


def test_a_device_that_turned_out_faster_keeps_its_profile() -> None:
    found = drift_of("pi", predicted_s=10.0, observed_s=1.0, rounds=3)
    assert found is not None
    assert corrected(PI4, found) is PI4


def test_the_engine_a_profile_was_measured_on_is_the_one_that_counts() -> None:
    measured = msgspec.structs.replace(ORIN, engine="masked")
    both = assign({"m": measured, "s": ORIN}, MNISTNET, LADDER)
    assert both["m"].costs[0.05].seconds > both["s"].costs[0.05].seconds
    asked = assign({"m": measured}, MNISTNET, LADDER, engine="sparse")["m"]
    assert asked.costs[0.05].seconds == both["s"].costs[0.05].seconds


def test_a_days_bytes_bound_the_density() -> None:
    dear = Caps(bytes_per_day=2 * 4 * (26_100 + 840))
    chosen = assign({"orin": ORIN}, MNISTNET, LADDER, caps=dear)["orin"]
    assert chosen.density == 0.1
    assert "bytes a day of" in chosen.why
