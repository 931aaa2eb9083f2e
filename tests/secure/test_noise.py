"""Distributed noise: its distribution, its size, and that an order has one of it."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from msgspec import UNSET
from msgspec.structs import replace
from scipy import stats
from secure_fleet import ROUND, Fleet, drawn, how, plain_vectors

from coordinator.algorithms.privacy.distributed import (
    guaranteed,
    least_survivors,
    noise_parts,
    steps_with_noise,
)
from coordinator.rounds.secure.unmask import unmasked
from edge_sdk.secure import device_round as steps
from edge_sdk.secure.discrete_gaussian import chances, discrete_gaussian, own_noise
from edge_sdk.wire.codec import pack, unpack
from edge_sdk.wire.secure.fixed_point import centred, steps_of, to_fixed
from edge_sdk.wire.secure.messages import SecureKeys, SecureNoise, SecureRound

UNIT = 1 << 63
NOISE = SecureNoise(part=40.0, survivors=3, cohort=5, longest=10**6)


@pytest.mark.parametrize("deviation", [0.5, 1.0, 3.25, 1100.0])
def test_a_table_has_the_chances_of_a_discrete_gaussian(deviation: float) -> None:
    """Poisson's sum gives the divisor another way: a theta function of either side."""
    found = [int(one) for one in chances(deviation)]
    other = sum(math.exp(-2 * (math.pi * deviation * k) ** 2) for k in range(1, 9))
    whole = deviation * math.sqrt(2 * math.pi) * (1 + 2 * other)
    for k in {1, 2, 3, round(deviation) + 1, round(4 * deviation)}:
        wanted = 2 * math.exp(-(k**2) / (2 * deviation**2)) / whole
        assert found[k - 1] / UNIT == pytest.approx(wanted, rel=1e-12), k
    zero = Fraction(UNIT - sum(found), UNIT)
    assert float(zero) == pytest.approx(1 / whole, rel=1e-9)
    assert sum(found) < UNIT


def test_at_deviation_one_the_chances_are_those_of_the_published_sum() -> None:
    """1 + 2 (exp(-1/2) + exp(-2) + exp(-9/2) + ...) is 2.5066282880429055."""
    assert chances(1.0)[0] / UNIT == pytest.approx(2 * 0.24197072, rel=1e-7)
    assert chances(1.0)[1] / UNIT == pytest.approx(2 * 0.05399097, rel=1e-7)


def test_draws_have_the_chances_of_the_table() -> None:
    many = discrete_gaussian(bytes(range(32)), 200_000, 2.0)
    edges = np.arange(-6, 7)
    counts = [np.count_nonzero(many == k) for k in edges]
    weights = np.exp(-(edges**2) / 8.0)
    every = np.exp(-(np.arange(-60, 61) ** 2) / 8.0).sum()
    wanted = weights / every * many.size
    rest = many.size - sum(counts)
    found = stats.chisquare([*counts, rest], [*wanted, many.size - wanted.sum()])
    assert found.pvalue > 1e-3
    wide = discrete_gaussian(bytes(32), 200_000, 1234.5)
    assert stats.kstest(wide / 1234.5, "norm").pvalue > 1e-3
    assert abs(np.corrcoef(wide[:-1], wide[1:])[0, 1]) < 0.01


def test_noise_is_the_same_for_a_secret_and_a_round_and_no_other() -> None:
    first = own_noise(b"s" * 32, ROUND, 50, 40.0)
    assert first.tolist() == own_noise(b"s" * 32, ROUND, 50, 40.0).tolist()
    assert first.tolist() != own_noise(b"t" * 32, ROUND, 50, 40.0).tolist()
    assert first.tolist() != own_noise(b"s" * 32, bytes(16), 50, 40.0).tolist()
    # Golden: what a device drew before it was updated is what it draws after.
    assert own_noise(bytes(32), bytes(16), 6, 40.0).tolist() == [
        14,
        24,
        -20,
        -71,
        -40,
        6,
    ]


def noisy_fleet(devices: int, noise: SecureNoise, size: int) -> Fleet:
    names = [f"pi-{at}" for at in range(devices)]
    fleet = Fleet(dict.fromkeys(names, 1), (size,))
    fleet.begin(names)
    for name, state in fleet.states.items():
        told = replace(state.how, noise=noise)
        begun = steps.begin(state.task_id, "fed", name, told, drawn(f"noisy {name}"))
        fleet.states[name] = begun
    return fleet


def test_a_sum_has_the_noise_of_those_that_are_in_it() -> None:
    size, devices = 20_000, 5
    fleet = noisy_fleet(devices, NOISE, size)
    for name, state in fleet.states.items():
        said = steps.keys_of(state, None)
        assert said.noise is True
        fleet.keys[name] = said
    fleet.introduce()
    for name, state in fleet.states.items():
        told = steps.shares(state, fleet.peers(name), None)
        fleet.states[name], fleet.sent[name] = told, told.sent
    fleet.close()
    names = sorted(fleet.states)
    plain = plain_vectors(fleet, names[:4], 1)
    fleet.upload(plain)
    fleet.reveal(names[:4])
    assert fleet.cohort is not None
    total, count, wrong = unmasked(fleet.cohort, fleet.vectors.items(), fleet.revealed)
    noise = total - sum(centred(one) for one in plain.values())
    assert wrong == []
    assert count.tolist() == [4] * size
    own = sum(
        own_noise(fleet.states[n].noise, ROUND, size, NOISE.part) for n in names[:4]
    )
    assert noise.tolist() == own.tolist()  # and of nobody else
    assert noise.std() == pytest.approx(2 * NOISE.part, rel=0.02)


def test_a_device_that_is_killed_after_drawing_sends_the_same_noise_again() -> None:
    """Its secret is in the state that is durable before the keys are said."""
    fleet = noisy_fleet(3, NOISE, 40)
    kept = {name: pack(state) for name, state in fleet.states.items()}
    for name, state in fleet.states.items():
        fleet.keys[name] = steps.keys_of(state, None)
    fleet.introduce()

    def masked(name: str) -> list[int]:
        state = unpack(kept[name], steps.DeviceRound)  # as after kill -9
        state = steps.shares(state, fleet.peers(name), None)
        fleet.sent[name] = state.sent
        if len(fleet.sent) < 3:
            return []
        fleet.close()
        state = steps.with_shares(state, fleet.delivery(name))
        plain = plain_vectors(fleet, [name], 1)[name]
        state, found = steps.mask(state, plain)
        again, same = steps.mask(state, plain)
        assert (again, same.tolist()) == (state, found.tolist())
        return list(found.tolist())

    for name in fleet.states:
        masked(name)
    first = masked("pi-0")
    assert first
    assert masked("pi-0") == first
    assert len({fleet.states[name].noise for name in fleet.states}) == 3


def test_numbers_that_noise_hides_are_no_longer_than_it_allows() -> None:
    size, asked = 4000, 10
    survivors, ratio = least_survivors(asked, 3), 2.0
    given = survivors, 4.05, ratio, size
    found = steps_with_noise(16, asked, *given)
    noise = noise_parts(found, *given, 10)
    assert noise is not None
    told = replace(how((size,), asked), steps=found, clip=0.25, norm=0.5, noise=noise)
    words = np.random.default_rng(5)
    for scale in (1e-3, 0.02, 5.0):
        values = words.normal(0, scale, size)
        whole = centred(to_fixed(values, told, 1.0, words))
        assert np.square(whole).sum() <= noise.longest
        short = values * min(1.0, 0.5 / np.linalg.norm(values))
        close = np.clip(short, -0.25, 0.25) * found / 0.25
        assert np.abs(whole - close).max() <= 1
    # Who has no more luck in rounding cuts: never longer than the values were.
    tight = replace(told, noise=replace(noise, longest=1))
    cut = centred(to_fixed(np.full(size, 1.0), tight, 1.0, words))
    assert np.square(cut).sum() <= (0.5 * found / 0.25) ** 2


@pytest.mark.parametrize("bits", [16, 32])
@pytest.mark.parametrize("asked", [3, 10, 100])
def test_the_ring_has_room_and_the_fewest_survivors_have_the_noise(
    bits: int, asked: int
) -> None:
    survivors, ratio, size = least_survivors(asked, 3), 2.0, 20_000
    given = survivors, 4.05, ratio, size
    found = steps_with_noise(bits, asked, *given)
    noise = noise_parts(found, *given, asked)
    assert noise is not None
    assert 0 < found < steps_of(bits, asked)
    reach = asked * found + 8 * noise.part * math.sqrt(asked)
    assert reach < 1 << bits - 1
    exact = ratio * found
    least = guaranteed(noise, survivors, size)
    assert 4.05 <= least < 4.06
    # Rounding makes a device longer, by little; the noise is sized for that.
    assert exact**2 < noise.longest < 1.25**2 * exact**2
    every = guaranteed(noise, asked, size)
    assert every == pytest.approx(4.05 * math.sqrt(asked / survivors), rel=1e-5)
    assert guaranteed(noise, survivors - 1, size) < 4.05


def test_noise_of_few_steps_promises_less_and_too_coarse_a_ring_none() -> None:
    coarse = SecureNoise(part=0.6, survivors=3, cohort=3, longest=1)
    smooth = SecureNoise(part=6.0, survivors=3, cohort=3, longest=100)
    assert guaranteed(coarse, 3, 1000) < 0.9 * 0.6 * math.sqrt(3)
    assert guaranteed(smooth, 3, 1000) == pytest.approx(0.6 * math.sqrt(3))
    assert guaranteed(replace(coarse, part=0.4), 3, 1) == 0
    assert steps_with_noise(16, 1000, 501, 1e4, 400.0) == 0
    assert noise_parts(0, 3, 1.0, 1.0, 1, 3) is None
    assert noise_parts(1, 3, 1.0, 1.0, 10**6, 3) is None


PLAIN = (
    "8aa26964c41000000000000000000000000000000000a46269747310a57374657073cd01"
    "55a4636c6970cb3fd0000000000000ad6d6f73745f6578616d706c657364a56c65617374"
    "03a573697a6573921428a76d656d6265727390a46e6f726dcb3fe0000000000000a67365"
    "6372657410"
)
NOISY = "a56e6f69736594cb4044400000000000060ace00071868"


def test_bytes_of_an_order_without_noise_are_as_they_were_and_noise_comes_last() -> (
    None
):
    """Golden: a build that knows no noise reads all of the order but the noise."""
    plain = SecureRound(bytes(16), 16, 341, 0.25, 100, 3, [20, 40], [], 0.5, 16)
    noisy = replace(plain, noise=SecureNoise(40.5, 6, 10, 465_000))
    assert pack(plain).hex() == PLAIN
    count, rest = PLAIN[:2], PLAIN[2:]
    more = f"{int(count, 16) + 1:02x}"
    assert pack(noisy).hex() == more + rest + NOISY
    assert unpack(pack(noisy), SecureRound) == noisy
    keys = SecureKeys("1-a", b"\1" * 32, b"\2" * 32, b"\3" * 32)
    says = replace(keys, noise=True)
    assert pack(says)[1:] == pack(keys)[1:] + b"\xa5noise\xc3"
    assert unpack(pack(keys), SecureKeys).noise is UNSET
