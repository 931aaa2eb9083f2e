"""Secure aggregation in memory: sums, drop-outs, refusals."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from secure_fleet import ROUND, Fleet, drawn, plain_vectors

from coordinator.rounds.secure.unmask import unmasked
from edge_sdk.errors import RemoteProtocolError, RunError, StateError
from edge_sdk.identity.signatures import is_signed
from edge_sdk.secure import device_round as steps
from edge_sdk.secure.keys import agreeing, decrypt
from edge_sdk.secure.shamir import combine, combine_all, split


def names(count: int) -> list[str]:
    return [f"d-{n:03}" for n in range(count)]


def run(fleet: Fleet, lost: list[int], seed: int) -> tuple[object, object]:
    """A whole round, with so many devices lost before each of its four steps."""
    rng = np.random.default_rng(seed)
    alive = sorted(fleet.levels)

    def lose(count: int) -> list[str]:
        gone = set(rng.permutation(len(alive))[:count].tolist())
        return [name for at, name in enumerate(alive) if at not in gone]

    alive = lose(lost[0])
    fleet.begin(alive)
    fleet.introduce()
    alive = lose(lost[1])
    fleet.share(alive)
    fleet.close()
    alive = lose(lost[2])
    plain = plain_vectors(fleet, alive, seed)
    fleet.upload(plain)
    alive = lose(lost[3])
    fleet.reveal(alive)
    size = fleet.sizes[max(fleet.cohort.levels.values()) - 1]
    wanted, count = np.zeros(size, np.int64), np.zeros(size, np.int64)
    kind = np.int16 if fleet.bits == 16 else np.int32
    for vector in plain.values():
        wanted[: vector.size] += vector.view(kind)
        count[: vector.size] += 1
    sums, held, wrong = unmasked(fleet.cohort, fleet.vectors.items(), fleet.revealed)
    assert wrong == []
    assert (held == count).all()
    assert (sums == wanted).all()
    return sums, wanted


def test_thirty_of_a_hundred_lost_before_the_sum_leave_that_of_the_others() -> None:
    """A thousand pairs of masks, and 30 times 20 of them to be taken away.

    On half of the neighbours that a run of so many has: those cost time, and the sum is
    the same (`tests/secure/test_graph.py` has their number).
    """
    run(Fleet(dict.fromkeys(names(100), 1), (211,), degree=24), [0, 0, 30, 0], 1)


@pytest.mark.parametrize("step", range(4))
def test_thirty_percent_lost_before_a_step_leave_the_sum_of_the_others(
    step: int,
) -> None:
    lost = [0, 0, 0, 0]
    lost[step] = 12
    run(Fleet(dict.fromkeys(names(40), 1), (211,), degree=16), lost, step)


@settings(max_examples=14, deadline=None)
@given(
    count=st.integers(5, 11),
    levels=st.lists(st.integers(1, 3), min_size=11, max_size=11),
    step=st.integers(0, 3),
    bits=st.sampled_from([16, 32]),
    seed=st.integers(0, 1000),
)
def test_the_sum_is_that_of_who_arrived_whatever_they_hold(
    count: int, levels: list[int], step: int, bits: int, seed: int
) -> None:
    own = dict(zip(names(count), levels, strict=False))
    lost = [0, 0, 0, 0]
    lost[step] = min((count - 1) // 2, int(0.3 * count))
    run(Fleet(own, (5, 9, 17), bits), lost, seed)


def test_below_the_threshold_nothing_is_revealed() -> None:
    fleet = Fleet(dict.fromkeys(names(7), 1), (9,))
    with pytest.raises(RunError, match="3 devices hold a share of the masks of d-00"):
        run(fleet, [0, 0, 0, 4], 1)
    fleet = Fleet(dict.fromkeys(names(7), 1), (9,))
    with pytest.raises(RemoteProtocolError, match="3 updates arrived; at least 4"):
        run(fleet, [0, 0, 4, 0], 1)
    assert not fleet.revealed
    fleet = Fleet(dict.fromkeys(names(7), 1), (9,))
    with pytest.raises(RemoteProtocolError, match="3 devices take part; at least 4"):
        run(fleet, [0, 4, 0, 0], 1)


def ready(count: int = 5) -> Fleet:
    fleet = Fleet(dict.fromkeys(names(count), 1), (9,))
    fleet.begin(names(count))
    fleet.introduce()
    fleet.share(names(count))
    fleet.close()
    fleet.upload(plain_vectors(fleet, names(count)[1:], 3))
    return fleet


def test_a_second_list_of_survivors_is_refused_and_the_first_answered_again() -> None:
    fleet = ready()
    state, told = fleet.states["d-001"], fleet.unmask("d-001")
    after, said = steps.reveal(state, told)
    assert steps.reveal(after, told) == (after, said)
    other = told.fates.replace(b"\x02", b"\x01")
    assert other != told.fates
    with pytest.raises(RemoteProtocolError, match="two different lists of survivors"):
        steps.reveal(after, type(told)(told.task_id, other))


def test_other_neighbours_another_cohort_or_another_vector_are_refused() -> None:
    fleet = ready()
    state, told = fleet.states["d-001"], fleet.peers("d-001")
    assert steps.shares(state, told, is_signed) == state
    fewer = type(told)(told.task_id, 3, told.peers[:-1])
    with pytest.raises(RemoteProtocolError, match="two different lists of neighbours"):
        steps.shares(state, fewer, is_signed)
    given = fleet.delivery("d-001")
    assert steps.with_shares(state, given) == state
    with pytest.raises(RemoteProtocolError, match="two different cohorts"):
        steps.with_shares(state, type(given)("1", given.shares, b"\1\1\1\1\0"))
    vector = plain_vectors(fleet, ["d-001"], 99)["d-001"]
    with pytest.raises(StateError, match="another update than before"):
        steps.mask(state, vector)


def test_keys_that_are_not_a_neighbours_are_refused_by_name() -> None:
    fleet = Fleet(dict.fromkeys(names(4), 1), (9,))
    fleet.begin(names(4))
    fleet.introduce()
    state, told = fleet.states["d-001"], fleet.peers("d-001")
    swapped = list(told.peers)
    keys = told.peers[3]
    swapped[2] = type(keys)(
        "d-002", swapped[2].identity, keys.share_key, keys.mask_key, keys.signature
    )
    with pytest.raises(RemoteProtocolError, match="neighbour d-002 are not signed"):
        steps.shares(state, type(told)("1", 3, swapped), is_signed)
    low = type(told)("1", 2, told.peers)
    with pytest.raises(RemoteProtocolError, match="2 of 4 is not more than half"):
        steps.shares(state, low, is_signed)
    without = type(told)("1", 2, [p for p in told.peers if p.name != "d-001"])
    with pytest.raises(RemoteProtocolError, match="leaves this device out"):
        steps.shares(state, without, is_signed)


def test_shares_that_were_altered_are_refused_by_name() -> None:
    fleet = Fleet(dict.fromkeys(names(5), 1), (9,))
    fleet.begin(names(5))
    fleet.introduce()
    fleet.share(names(5))
    fleet.close()
    given = fleet.delivery("d-001")
    shares = list(given.shares)
    shares[3] = shares[3][:-1] + bytes([shares[3][-1] ^ 1])
    told = type(given)("1", shares, given.levels)
    state = steps.with_shares(fleet.states["d-001"], told)
    assert steps.unread(state) == ["d-003"]
    way = "d-003", "d-001"
    own, peer = state.share_private, state.peers[3]
    with pytest.raises(RemoteProtocolError, match="shares of d-003 were not encrypted"):
        decrypt(agreeing(own), peer.share_key, ROUND, way, shares[3])


def test_a_wrong_share_is_found_and_named_where_the_others_suffice() -> None:
    fleet = ready(7)
    fleet.reveal(names(7)[1:])
    shares = fleet.revealed["d-004"]
    at = fleet.cohort.holders["d-004"].index("d-002")
    shares[at] = bytes(16)
    sums, _, wrong = unmasked(fleet.cohort, fleet.vectors.items(), fleet.revealed)
    assert wrong == ["d-004"]
    plain = plain_vectors(fleet, names(7)[1:], 3)
    assert (
        sums == sum(v.view(np.int16).astype(np.int64) for v in plain.values())
    ).all()
    fleet.revealed.pop("d-005")
    fleet.revealed.pop("d-006")
    with pytest.raises(RunError, match="d-002 do not fit: one of d-001, d-002, d-003"):
        unmasked(fleet.cohort, fleet.vectors.items(), fleet.revealed)


def test_no_device_says_both_of_its_secrets() -> None:
    fleet = ready()
    fleet.reveal(names(5)[1:])
    for holder, told in fleet.revealed.items():
        for peer, share in zip(fleet.cohort.holders[holder], told, strict=True):
            held = fleet.states[holder].held[fleet.cohort.holders[holder].index(peer)]
            assert share == (held[:16] if peer in fleet.vectors else held[16:])


def test_half_of_the_shares_are_derived_and_are_those_of_the_sent_ones() -> None:
    """Whichever so many holders come together, they have the device's two secrets."""
    fleet = ready(9)
    here = names(9)
    for name in here:
        sent, secret = fleet.states[name].sent, fleet.states[name]
        assert sum(not share for share in sent) == 5  # its own, and one less than 5
        assert {len(share) for share in sent} == {0, 48}
        held = {
            at: fleet.states[holder].held[here.index(name)]
            for at, holder in enumerate(here, 1)
            if holder in fleet.vectors or holder == name
        }
        for start in range(4):
            some = dict(list(held.items())[start : start + 5])
            assert combine(some) == secret.seed + secret.mask_private
            fewer = dict(list(some.items())[:4])
            assert combine(fewer) != secret.seed + secret.mask_private


# Published: draft-mcgrew-tss-03, section 10 (the secret is at 0), and those of
# Blockchain Commons' bc-shamir (3 of 5, the secret is at 255, SLIP-0039's field).
MCGREW = {1: "b9fa07e185", 2: "f5409b4511"}
COMMONS = {
    0: "00112233445566778899aabbccddeeff",
    1: "d43099fe444807c46921a4f33a2a798b",
    2: "d9ad4e3bec2e1a7485698823abf05d36",
    3: "0d8cf5f6ec337bc764d1866b5d07ca42",
    4: "1aa7fe3199bc5092ef3816b074cabdf2",
}


def test_published_shares_give_their_secrets() -> None:
    shares = {at: bytes.fromhex(text) for at, text in MCGREW.items()}
    assert combine(shares) == b"test\0"
    for three in ((0, 1, 2), (1, 2, 4), (0, 3, 4)):
        shares = {at: bytes.fromhex(COMMONS[at]) for at in three}
        assert combine(shares, 255).hex() == "0ff784df000c4380a5ed683f7e6e3dcf"


@settings(max_examples=30, deadline=None)
@given(st.binary(max_size=40), st.integers(2, 30), st.integers(0, 225), st.randoms())
def test_any_so_many_shares_give_the_secret_back(
    secret: bytes, threshold: int, more: int, random: object
) -> None:
    words = drawn("shamir")
    given = {at: words(len(secret)) for at in range(1, threshold)}
    shares = split(secret, given, threshold + more)
    points = random.sample(range(1, threshold + more + 1), threshold)
    assert combine({point: shares[point - 1] for point in points}) == secret


def test_several_points_at_once_are_each_point_alone() -> None:
    given = {1: b"ab", 4: b"cd", 9: b"ef"}
    wanted = [0, 1, 2, 4, 200, 9]
    assert combine_all(given, wanted) == [combine(given, at) for at in wanted]
    whole = split(b"xy", {2: b"ab", 3: b"cd"}, 5)
    assert combine_all({1: whole[0], 4: whole[3], 5: whole[4]}, [0, 2, 3]) == [
        *(b"xy", b"ab", b"cd")
    ]


def test_an_agreement_that_remembers_gives_what_one_that_is_made_anew_gives() -> None:
    fleet = Fleet(dict.fromkeys(names(4), 1), (9,))
    fleet.begin(names(4))
    fleet.introduce()
    fleet.share(names(4))
    fleet.close()
    state = fleet.states["d-001"]
    agree = agreeing(state.share_private)
    before = steps.shares(
        steps.begin(state.task_id, "fed", "d-001", state.how, drawn("d-001")),
        *(fleet.peers("d-001"), is_signed, agree),
    )
    assert before == state
    known = agree.cache_info().misses
    told = fleet.delivery("d-001")
    assert steps.with_shares(before, told, agree) == steps.with_shares(state, told)
    assert agree.cache_info().misses == known == 3  # one for each neighbour
