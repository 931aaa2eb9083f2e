"""Secure rounds of masks by units: each ring's sum is that of who holds it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from msgspec import UNSET, structs
from secure_fleet import drawn
from secure_units import holds, network, noise_in, order_of, round_of, share_of

from coordinator.algorithms.base import MaskFamily
from coordinator.algorithms.mean import Model
from coordinator.algorithms.privacy import PrivacySettings
from coordinator.algorithms.unit_masks import by_units, widths
from coordinator.rounds.secure.answers import keys_said
from coordinator.rounds.secure.orders import masked_orders
from coordinator.rounds.secure.stages import SecureState
from edge_sdk.errors import RemoteProtocolError, RunError
from edge_sdk.secure import device_round as steps
from edge_sdk.wire.codec import pack, unpack
from edge_sdk.wire.rules import Member
from edge_sdk.wire.secure.layout import flat
from edge_sdk.wire.secure.messages import SecureKeys, SecureRound
from edge_sdk.wire.values import Values, unpack_values


@settings(max_examples=14, deadline=None)
@given(
    st.sampled_from([by_units, widths]),
    st.integers(5, 9),
    st.integers(4, 8),
    st.sampled_from([(0.3, 0.9), (0.25, 0.5, 1.0), (0.4, 0.5)]),
    st.lists(st.integers(0, 2), min_size=5, max_size=8),
    st.lists(st.sampled_from(["", "", "", "shares", "update"]), min_size=8, max_size=8),
    st.booleans(),
    st.integers(0, 1000),
)
def test_each_rings_sum_is_that_of_the_survivors_who_hold_it(
    plan: Any,
    first: int,
    second: int,
    densities: tuple[float, ...],
    places: list[int],
    fates: list[str],
    noisy: bool,
    seed: int,
) -> None:
    """The plain sum of whole numbers, entry by entry, bit for bit."""
    try:
        family, base = network(plan, first, second, densities)
    except ValueError:
        assume(False)
    fleet = {f"d-{at}": densities[p % len(densities)] for at, p in enumerate(places)}
    lost = tuple(
        {d for d, fate in zip(fleet, fates, strict=False) if fate == kind}
        for kind in ("shares", "update")
    )
    noise = {"noise_multiplier": 1.0, "clip": 4.0, "ring_bits": 32} if noisy else {}
    privacy = PrivacySettings(secure_aggregation=True, min_devices=2, **noise)
    found = round_of(family, base, fleet, lost, privacy, seed)
    memory, whole, state, own = found
    how = next(o.secure for o in state.orders.values())
    ladder = sorted(family.masks)
    opened = sorted({state.levels[device] for device in whole})
    assert [d for d, _, _ in memory.means] == [ladder[at - 1] for at in opened]
    total, weight = {}, {}
    for device in whole:
        sent = holds(family, base, ladder[state.levels[device] - 1])
        share = share_of(device, how)
        noise_of = noise_in(family, base, state, own, device) if noisy else {}
        for name, held in sent.items():
            numbers = np.where(held, whole[device][name] + noise_of.get(name, 0), 0)
            total[name] = total.get(name, 0) + numbers
            weight[name] = weight.get(name, 0) + np.where(held, share, 0.0)
    over = float(how.noise.cohort) if noisy else 0.0
    for density, blob, _ in memory.means:
        mask = family.masks[density]
        values = unpack_values(memory.blobs[blob], mask)
        for name, held in holds(family, base, density).items():
            by = np.where(held, over or weight[name], 1.0)
            mean = (total[name] * (how.clip / how.steps) / by).astype(np.float32)
            if name in mask:
                assert values.masked[name].tobytes() == mean[mask[name]].tobytes(), name
            else:
                wanted = np.where(held, mean, np.float32(0))
                assert values.dense[name].tobytes() == wanted.tobytes(), name
        assert values.dense["seen"] == 0


def test_units_of_an_order_that_fit_no_entry_are_refused() -> None:
    family, base = network(by_units, 8, 6, (0.3, 0.9))
    small, large = family.masks[0.3], family.masks[0.9]
    change = Values(large.digest, base.masked, base.dense)
    for kept in ([2], [6, 2], [2, 9]):
        with pytest.raises(RemoteProtocolError, match=r"entry a\.bias has 8 units"):
            flat(change, [small], large, ["a.bias"], {"a.bias": kept})
    with pytest.raises(RemoteProtocolError, match="entry scale has 0 units"):
        flat(change, [small], large, ["scale"], {"scale": [1, 1]})
    with pytest.raises(RemoteProtocolError, match="entry scale has 0 units"):
        flat(change, [small], large, ["scale"], {"scale": [0, 0]})


def test_an_older_build_that_knows_no_units_is_out_by_name() -> None:
    """It would lay its values out otherwise, and the sum would be of other weights."""
    family, base = network(by_units, 8, 6, (0.3, 0.9))
    privacy = PrivacySettings(secure_aggregation=True)
    plain = {f"d-{at}": order_of(family, f"d-{at}", 0.9) for at in range(3)}
    orders = masked_orders(plain, family, base, dict.fromkeys(plain, 5), privacy, 3)
    begun = steps.begin("1-d-0", "fed", "d-0", orders["d-0"].secure, drawn("d-0"))
    said = steps.keys_of(begun, None)
    assert said.units is True
    state = SecureState(orders)
    assert keys_said(state, "d-0", said, "fed", None).state.keys
    old = structs.replace(said, units=UNSET)
    answer = keys_said(state, "d-0", old, "fed", None)
    assert "sums no masks by units" in answer.why
    assert not answer.state.keys


def test_masks_of_several_densities_that_share_nothing_open_no_round() -> None:
    family, base = network(by_units, 8, 6, (0.3, 0.9))
    privacy = PrivacySettings(secure_aggregation=True)
    plain = {"d-0": order_of(family, "d-0", 0.9)}
    other = by_units(np.ones(3), family.layers, (0.3, 0.9), 99)
    strange = {0.9: family.masks[0.9], 0.3: other.masks[0.3]}
    for one, model in (
        (MaskFamily(family.layers, family.masks, None, boxes=family.boxes), base),
        (MaskFamily(family.layers, strange, 3, boxes=family.boxes), base),
        (family, Model(base.mask, base.masked, base.dense, gain=1.0)),
    ):
        with pytest.raises(RunError, match="share nothing to sum"):
            masked_orders(plain, one, model, {"d-0": 5}, privacy, 3)


UNITS = "85a5756e69747382a6612e62696173920408a6622e62696173920306"


def test_bytes_of_an_order_without_units_are_as_they_were_and_units_come_last() -> None:
    """Golden: a build that knows no units reads all of the order but the units."""
    plain = SecureRound(
        bytes(16), 16, 341, 0.25, 100, 3, [20, 40], [Member({"a.weight": 3})]
    )
    cut = structs.replace(plain, units={"a.bias": [4, 8], "b.bias": [3, 6]})
    assert pack(cut)[1:] == pack(plain)[1:] + bytes.fromhex(UNITS)[1:]
    assert pack(cut)[0] == pack(plain)[0] + 1
    assert unpack(pack(cut), SecureRound) == cut
    keys = SecureKeys("1-a", b"\1" * 32, b"\2" * 32, b"\3" * 32)
    says = structs.replace(keys, units=True)
    assert pack(says)[1:] == pack(keys)[1:] + b"\xa5units\xc3"
    assert unpack(pack(keys), SecureKeys).units is UNSET
