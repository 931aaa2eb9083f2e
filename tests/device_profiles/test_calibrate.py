from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from device_profiles import DeviceProfile, ProfileError, load_board
from device_profiles.calibrate import Observation, calibrate
from device_profiles.step_time import Terms

PI = load_board("raspberry_pi_4b_4gb")

rates = st.builds(
    lambda g, m, p, o: msgspec.structs.replace(
        PI,
        train_gflops=PI.train_gflops * g,
        memory_gb_s=PI.memory_gb_s * m,
        pool_m_s=400.0 * p,
        step_overhead_ms=PI.step_overhead_ms * o,
    ),
    *([st.floats(0.3, 3.0)] * 2),
    st.floats(0.8, 1.25),
    st.floats(0.3, 3.0),
)
work = st.builds(
    Terms,
    gflop=st.floats(0.01, 10.0),
    gbyte=st.floats(0.001, 1.0),
    mcompare=st.floats(0.0, 1.0),
    calls=st.floats(20, 500),
)


@given(rates, st.lists(work, min_size=1, max_size=4))
def test_what_was_observed_is_predicted_afterwards(
    truth: DeviceProfile, terms: list[Terms]
) -> None:
    """Whatever the board, three steps of it suffice to predict those three."""
    seen = [Observation(one, one.seconds(truth)) for one in terms]
    fitted = calibrate(PI, seen)
    for one in seen:
        assert one.terms.seconds(fitted) == pytest.approx(one.seconds, rel=0.1)


def test_enough_different_work_finds_the_rates_themselves() -> None:
    truth = msgspec.structs.replace(
        PI, train_gflops=4.0, memory_gb_s=2.5, step_overhead_ms=9.0
    )
    terms = [
        Terms(*one)
        for one in (
            (10.0, 0.01, 0.0, 20),
            (0.01, 1.0, 0.0, 20),
            (0.01, 0.001, 0.0, 900),
            (1.0, 0.1, 0.0, 100),
        )
    ]
    fitted = calibrate(PI, [Observation(t, t.seconds(truth)) for t in terms])
    assert fitted.train_gflops == pytest.approx(4.0, rel=0.02)
    assert fitted.memory_gb_s == pytest.approx(2.5, rel=0.02)
    assert fitted.step_overhead_ms == pytest.approx(9.0, rel=0.02)


def test_rates_that_nothing_tells_apart_keep_their_ratio() -> None:
    one = Terms(5.0, 0.5, 0.0, 50)
    slower = calibrate(PI, [Observation(one, 2 * one.seconds(PI))])
    assert one.seconds(slower) == pytest.approx(2 * one.seconds(PI), rel=0.02)
    assert slower.train_gflops < PI.train_gflops


def test_nothing_observed_changes_nothing_and_wild_times_stay_finite() -> None:
    assert calibrate(PI, []) is PI
    one = Terms(1e-6, 1e-9, 0.0, 1)
    wild = calibrate(PI, [Observation(one, 1e4)])
    assert 0 < wild.train_gflops < PI.train_gflops
    assert wild.step_overhead_ms <= 60_000


@pytest.mark.parametrize("seconds", [0.0, -1.0, float("nan"), float("inf")])
def test_a_time_that_cannot_be_is_refused(seconds: float) -> None:
    with pytest.raises(ProfileError, match="step time above 0"):
        Observation(Terms(1, 1, 1, 1), seconds)
