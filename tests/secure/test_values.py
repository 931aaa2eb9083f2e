"""Values of masked updates: what is beyond a bound is cut on the device."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec import structs
from secure_fleet import how
from secure_house import SecureHouse
from secure_messages import check

from coordinator.algorithms.privacy import PrivacySettings
from coordinator.server.secure.sums import kept_sum
from edge_sdk.errors import LocalProtocolError
from edge_sdk.wire.blob import manifest_of
from edge_sdk.wire.messages import TaskOrder
from edge_sdk.wire.secure.fixed_point import centred, pack_ring, to_fixed, unpack_ring
from edge_sdk.wire.secure.messages import SecureDelivery
from edge_sdk.wire.values import unpack_values

ROUND = how((4,), 10)
STEP = ROUND.clip / ROUND.steps


def fixed(values: list[float], weight: float = 1.0, **changes: Any) -> Any:
    told = structs.replace(ROUND, **changes)
    ring = to_fixed(np.array(values), told, weight, np.random.default_rng(1))
    return centred(ring) * STEP


def test_a_value_beyond_the_clip_is_cut_and_the_others_stay() -> None:
    found = fixed([3.0, -1e30, 0.1, 0.0])
    assert np.abs(found - [0.25, -0.25, 0.1, 0.0]).max() < STEP
    assert np.abs(fixed([3.0, 0.1], 0.5) - [0.125, 0.05]).max() < STEP


def test_a_change_longer_than_the_norm_is_scaled_down_before_values_are_cut() -> None:
    found = fixed([0.3, 0.4, 0.0, 0.0], norm=0.25)
    assert np.abs(found - [0.15, 0.2, 0.0, 0.0]).max() < STEP
    assert (fixed([0.03, 0.04], norm=0.25) == fixed([0.03, 0.04])).all()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_value_that_is_not_finite_is_refused_on_the_device(value: float) -> None:
    with pytest.raises(LocalProtocolError, match="not finite"):
        fixed([value, 0.1])


def test_devices_keep_to_the_clip_of_the_settings(tmp_path: Path) -> None:
    """Each of them moves every weight by 0.001; the mean is as long as `clip`."""
    privacy = PrivacySettings(secure_aggregation=True, clip=0.01)
    here = SecureHouse(tmp_path, 3, rounds=1, privacy=privacy)
    try:
        here.run(3000)
        ((_, blob, _),) = kept_sum(here.coordinator.ledger, 1)
        mask = here.coordinator.server._global_model.family.top
        mean = unpack_values(here.coordinator.ledger.blob(blob), mask)
    finally:
        here.close()
    assert mean.norm() == pytest.approx(0.01, rel=0.05)


def test_who_does_not_clip_where_it_shows_ends_the_round_without_a_model(
    tmp_path: Path,
) -> None:
    """Nobody can say who it was: no update was seen."""
    here = SecureHouse(tmp_path, 5, rounds=1, round_budget_s=60.0)
    here.recorded.before(SecureDelivery, "pi-4", here.devices["pi-4"].kill)
    own = here.devices["pi-1"].agent._session_effects.secure
    masked = own.masked

    def large(order: TaskOrder, update: Any) -> Any:
        mask, size = update.offer.mask_digest, order.secure.sizes[-1]
        vector = unpack_ring(update.payload, mask, order.secure.bits, size)
        payload = pack_ring(np.full_like(vector, 30_000), mask)
        offer = structs.replace(update.offer, manifest=manifest_of(payload))
        return masked(order, replace(update, offer=offer, payload=payload))

    own.masked = large
    try:
        here.until(lambda: _notes(here) != [""], 5000)
        assert "beyond the clip times its devices" in _notes(here)[0]
        assert check(here.recorded.said) == {"seed": 4, "key": 1}
    finally:
        here.close()


def _notes(here: SecureHouse) -> list[str]:
    rounds = here.coordinator.ledger.rounds()
    return [row.note for row in rounds[:1] if row.phase.value != "run"] or [""]
