"""Rounds of a build before ADR 83, whose secrets had 32 bytes: their bytes are read.

`before_short_secrets.json` was written by that build: four devices, of which one sent
shares and no update; what the ledger, a proof and one device's disk have of it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coordinator.rounds.secure.stages import from_rows
from coordinator.rounds.secure.unmask import too_few_shares, unmasked
from coordinator.server.secure.sums import Unmasking
from edge_sdk.errors import RemoteProtocolError, RunError
from edge_sdk.secure import device_round as steps
from edge_sdk.wire.codec import pack, unpack
from edge_sdk.wire.messages import TaskOrder
from edge_sdk.wire.secure.messages import SecureReveal, SecureUnmask


@pytest.fixture(scope="module")
def older() -> Any:
    path = Path(__file__).parent / "before_short_secrets.json"
    return json.loads(path.read_text("utf-8"))


def test_a_sum_of_long_secrets_is_read_from_a_ledger_and_from_a_proof(
    older: Any,
) -> None:
    rows = [(device, kind, bytes.fromhex(text)) for device, kind, text in older["rows"]]
    packed = {device: bytes.fromhex(text) for device, text in older["orders"].items()}
    kept = unpack(pack(Unmasking(packed, rows)), Unmasking)  # as a proof has it
    orders = {device: unpack(text, TaskOrder) for device, text in kept.orders.items()}
    state = from_rows(orders, kept.rows)
    assert {order.secure.secret for order in orders.values() if order.secure} == {32}
    cohort = state.cohort()
    assert too_few_shares(cohort, state.revealed) == ""
    vectors = [
        (device, np.frombuffer(bytes.fromhex(text), "<u2"))
        for device, text in older["vectors"].items()
    ]
    total, count, wrong = unmasked(cohort, vectors, state.revealed)
    assert total.tolist() == older["sums"]
    assert (count.tolist(), wrong) == ([3] * 5, [])
    # All three shares are needed: one with a wrong bit gives no secret.
    reveal = state.revealed["pi-1"]
    reveal[0] = reveal[0][:-1] + bytes([reveal[0][-1] ^ 1])
    with pytest.raises(RunError, match="masks of pi-0 do not fit"):
        unmasked(cohort, vectors, state.revealed)


def test_a_device_that_was_updated_in_such_a_round_answers_as_before(
    older: Any,
) -> None:
    state = unpack(bytes.fromhex(older["device"]), steps.DeviceRound)
    told = unpack(bytes.fromhex(older["unmask"]), SecureUnmask)
    after, said = steps.reveal(state, told)
    assert said == unpack(bytes.fromhex(older["reveal"]), SecureReveal)
    assert steps.reveal(unpack(pack(after), steps.DeviceRound), told)[1] == said
    other = bytes([told.fates[0], told.fates[1], 2, 2])
    with pytest.raises(RemoteProtocolError, match="two different lists"):
        steps.reveal(after, SecureUnmask(told.task_id, other))
