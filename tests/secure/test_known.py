"""Identities of neighbours travel once, and again to who has lost them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET
from msgspec.structs import replace
from secure_fleet import Fleet
from secure_house import Seal, SecureHouse, sign_keys

from edge_sdk.errors import RemoteProtocolError
from edge_sdk.identity.keys import raw_key
from edge_sdk.identity.signatures import is_signed
from edge_sdk.secure import device_round as steps
from edge_sdk.secure.known import (
    known_after,
    known_digest,
    with_known,
    without_known,
)
from edge_sdk.wire.codec import pack, unpack
from edge_sdk.wire.secure.messages import (
    MOST_HOLDERS,
    SecureKeys,
    SecurePeer,
    SecurePeers,
)

KEYS = SecureKeys("1-a", b"\1" * 32, b"\2" * 32, b"\3" * 32)


def peer(name: str, identity: bytes) -> SecurePeer:
    return SecurePeer(name, identity, bytes(32), bytes(32), bytes(64))


lists = st.lists(
    st.dictionaries(st.sampled_from("abcdef"), st.binary(min_size=1, max_size=2)),
    max_size=6,
)


@given(lists, st.integers(0, 6))
def test_both_sides_know_the_same_and_a_list_loses_nothing(
    rounds: list[dict[str, bytes]], lost: int
) -> None:
    """A device that loses its memory is told all, and is in step again."""
    noted: dict[str, bytes] = {}
    own: dict[str, bytes] = {}
    for no, told in enumerate(rounds):
        if no == lost:
            own = {}
        whole = [peer(name, key) for name, key in sorted(told.items())]
        known = noted if known_digest(noted) == known_digest(own) else {}
        sent = without_known(known, whole)
        assert with_known(own, sent) == whole
        noted, own = known_after(known, sent), known_after(own, sent)
        assert noted == own
        assert without_known(noted, whole) == [replace(p, identity=b"") for p in whole]


def test_what_is_known_stays_small() -> None:
    many = {f"d-{at}": b"k" for at in range(MOST_HOLDERS)}
    sent = [peer("d-0", b""), peer("e", b"n")]
    assert known_after(many, sent) == {"d-0": b"k", "e": b"n"}
    assert len(known_after({"d-0": b"k"}, sent)) == 2


def test_an_identity_that_nobody_was_told_is_refused_by_its_name() -> None:
    fleet = Fleet(dict.fromkeys(("a", "b", "c"), 1), (9,))
    fleet.begin(["a", "b", "c"])
    fleet.introduce()
    told = fleet.peers("a")
    lean = without_known({"b": told.peers[1].identity}, told.peers)
    with pytest.raises(RemoteProtocolError, match="neighbour b are not signed by it"):
        steps.shares(fleet.states["a"], SecurePeers("1", 2, lean), is_signed)
    knows = replace(fleet.states["a"], known={"b": told.peers[1].identity})
    after = steps.shares(knows, SecurePeers("1", 2, lean), is_signed)
    assert after.peers == told.peers
    assert after.known == {one.name: one.identity for one in told.peers}
    # Asked again with all of them, as by a coordinator that has started again.
    assert steps.shares(after, SecurePeers("1", 2, told.peers), is_signed) == after
    # What it says of its keys is said again, whatever it has heard since.
    assert steps.keys_of(after, None) == steps.keys_of(knows, None)


def test_bytes_of_keys_of_who_knows_nothing_are_as_they_were() -> None:
    says = replace(KEYS, known=b"\4" * 32)
    assert pack(says)[1:] == pack(KEYS)[1:] + b"\xa5known\xc4\x20" + b"\4" * 32
    assert unpack(pack(KEYS), SecureKeys).known is UNSET


def told_in(here: SecureHouse, no: int) -> dict[str, int]:
    """Device to how many identities it was told in a round."""
    found: dict[str, int] = {}
    for _, device, message in here.recorded.said:
        if isinstance(message, SecurePeers) and message.task_id.startswith(f"{no}-"):
            found[device] = sum(bool(one.identity) for one in message.peers)
    return found


def test_identities_are_told_once_and_again_to_a_device_that_lost_its_disk(
    tmp_path: Path,
) -> None:
    """The coordinator is killed too: what it has told is in its ledger."""
    here = SecureHouse(tmp_path, 4, rounds=3, round_budget_s=60.0)
    keys = sign_keys(here)

    def done(count: int) -> bool:
        rounds = here.coordinator.ledger.rounds()
        return sum(row.phase.value == "done" for row in rounds) >= count

    try:
        here.until(lambda: done(1), 5000)
        here.kill_coordinator()
        secure: Any = here.coordinator.server._controller._secure
        secure._identity_keys = lambda device: [raw_key(keys[device])]
        here.until(lambda: done(2), 5000)
        lost = here.devices["pi-1"]
        aggregator = lost.agent._session_effects.secure
        lost.kill()
        aggregator._path.unlink()
        lost.start()
        lost.agent._session_effects.secure._device_keys = Seal(keys["pi-1"])
        here.run(8000)
        assert told_in(here, 1) == {f"pi-{at}": 4 for at in range(4)}
        assert set(told_in(here, 2).values()) == {0}
        last = told_in(here, 3)
        assert last.pop("pi-1") == 4
        assert set(last.values()) == {0}
        phases = [row.phase.value for row in here.coordinator.ledger.rounds()]
        assert phases == ["done"] * 3
    finally:
        here.close()
