"""Devices of secure rounds that send what cannot be: named, and the run goes on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from msgspec.structs import replace
from secure_house import Seal, SecureHouse, sign_keys
from secure_messages import check

from coordinator.rounds.secure.stages import SecureState
from edge_sdk.secure import device_round as steps
from edge_sdk.secure.keys import (
    _SMALL_ORDER,
    agreeing,
    encrypt,
    is_usable,
    mask_key,
    public_of,
)
from edge_sdk.wire.messages import Message
from edge_sdk.wire.secure.messages import (
    SecureKeys,
    SecurePeers,
    SecureReveal,
    SecureShares,
)

Make = Callable[..., SecureHouse]
LOW_ORDER = (1).to_bytes(32, "little")


@pytest.fixture
def house(tmp_path: Path) -> Iterator[Make]:
    made: list[SecureHouse] = []

    def make(devices: int, **changes: Any) -> SecureHouse:
        made.append(SecureHouse(tmp_path / f"{len(made)}", devices, **changes))
        return made[-1]

    yield make
    for one in made:
        one.close()


def aggregator(here: SecureHouse, name: str) -> Any:
    return here.devices[name].agent._session_effects.secure


def alter(here: SecureHouse, name: str, change: Callable[[Message], Message]) -> None:
    """What a device says of secure rounds goes through a function."""
    own = aggregator(here, name)
    say = own._say
    own._say = lambda message: say(change(message))


def refusals(here: SecureHouse) -> dict[str, tuple[str, int, str]]:
    rows = here.coordinator.ledger._db.execute("SELECT * FROM refusals")
    return {row["device"]: (row["verdict"], row["round"], row["why"]) for row in rows}


def phases(here: SecureHouse) -> list[str]:
    return [row.phase.value for row in here.coordinator.ledger.rounds()]


# -- keys ------------------------------------------------------------------------------


def altered_key(message: Message) -> Message:
    if isinstance(message, SecureKeys):
        return replace(message, mask_key=public_of(b"7" * 32))
    return message


def test_signed_keys_are_taken_and_neighbours_check_them(house: Make) -> None:
    here = house(3, rounds=1)
    sign_keys(here)
    here.run(3000)
    assert phases(here) == ["done"]
    assert refusals(here) == {}
    peers = [m for _, _, m in here.recorded.said if isinstance(m, SecurePeers)]
    assert all(peer.signature for told in peers for peer in told.peers)


def test_keys_that_their_device_did_not_sign_are_refused_by_name_at_the_coordinator(
    house: Make,
) -> None:
    """Another's signature, none, and an altered key, each of another device."""
    here = house(10, rounds=1)
    sign_keys(here)
    aggregator(here, "pi-1")._device_keys = Seal(Ed25519PrivateKey.generate())
    aggregator(here, "pi-2")._device_keys = None
    alter(here, "pi-3", altered_key)
    here.run(3000)
    why = "the keys of its secure round are not signed by it"
    liars = ("pi-1", "pi-2", "pi-3")
    assert refusals(here) == dict.fromkeys(liars, ("rejected", 1, why))
    assert phases(here) == ["done"]
    assert check(here.recorded.said) == {"seed": 7, "key": 0}


def test_keys_of_small_order_are_refused_before_neighbours_see_them(
    house: Make,
) -> None:
    """Agreed with them, each neighbour would fail in place of who sent them."""
    here = house(7, rounds=1)

    def low(name: str) -> Callable[[Message], Message]:
        def changed(message: Message) -> Message:
            if isinstance(message, SecureKeys):
                return replace(message, **{name: LOW_ORDER})
            return message

        return changed

    alter(here, "pi-1", low("share_key"))
    alter(here, "pi-2", low("mask_key"))
    here.run(3000)
    for name in ("pi-1", "pi-2"):
        assert refusals(here)[name][2] == "its keys of the secure round are none"
    assert phases(here) == ["done"]
    assert check(here.recorded.said) == {"seed": 5, "key": 0}


def test_the_points_of_small_order_are_those_that_give_no_secret() -> None:
    for u in _SMALL_ORDER:
        for same in (u, u + (1 << 255), u + (1 << 255) - 19):
            if same != u + (1 << 255) - 19 or u < 19:  # the highest bit is masked out
                public = same.to_bytes(32, "little")
                assert not is_usable(public)
                with pytest.raises(steps.RemoteProtocolError, match="no usable"):
                    mask_key(b"1" * 32, public, b"id")
    assert len(_SMALL_ORDER) == 5
    assert is_usable(public_of(b"1" * 32))


# -- shares ----------------------------------------------------------------------------


def of_shares(change: Callable[[list[bytes]], list[bytes]]) -> Any:
    def changed(message: Message) -> Message:
        if isinstance(message, SecureShares):
            return replace(message, shares=change(list(message.shares)))
        return message

    return changed


def test_shares_of_another_number_or_length_are_refused_by_name(house: Make) -> None:
    """Three devices send too few, too short ones, and one for each neighbour."""
    here = house(10, rounds=1)
    changes: dict[str, Callable[[list[bytes]], list[bytes]]] = {
        "pi-1": lambda s: s[:-1],
        "pi-2": lambda s: [x[:-1] for x in s],
        "pi-3": lambda s: [x or bytes(48) for x in s],
    }
    for name, change in changes.items():
        alter(here, name, of_shares(change))
    here.run(3000)
    for name in changes:
        assert refusals(here)[name][:2] == ("rejected", 1)
        assert "do not fit its 10 neighbours" in refusals(here)[name][2]
    assert phases(here) == ["done"]
    assert check(here.recorded.said) == {"seed": 7, "key": 0}


def noise(shares: list[bytes]) -> list[bytes]:
    return [bytes(reversed(share)) for share in shares]


def test_shares_that_give_no_secret_are_blamed_on_who_sent_them(house: Make) -> None:
    """Not on the neighbours that hold them; nothing is revealed of anybody."""
    here = house(4, rounds=1, wait_for=3)

    def another(message: Message) -> Message:
        if isinstance(message, SecureKeys):
            return replace(message, seed=bytes(32))
        return message

    alter(here, "pi-1", another)
    here.until(lambda: "pi-1" in refusals(here), 3000)
    assert refusals(here) == {
        "pi-1": ("unmasking", 1, "the shares that it sent of its masks cannot be read, "
                 "or do not fit")
    }  # fmt: skip
    here.until(lambda: phases(here)[:1] == ["aborted"], 3000)
    standing = here.coordinator.ledger.standing()
    assert [n for n in sorted(standing) if standing[n]["failures"]] == ["pi-1"]
    here.run(60_000)
    assert phases(here)[-1] == "done"


def test_a_share_that_one_neighbour_cannot_read_costs_nothing(house: Make) -> None:
    here = house(4, rounds=1)

    def one(shares: list[bytes]) -> list[bytes]:
        at = next(i for i, share in enumerate(shares) if share)
        return [*shares[:at], noise(shares)[at], *shares[at + 1 :]]

    alter(here, "pi-1", of_shares(one))
    here.run(3000)
    assert phases(here) == ["done"]
    assert check(here.recorded.said) == {"seed": 4, "key": 0}


def test_shares_of_no_secret_are_blamed_on_who_shared_it(house: Make) -> None:
    """Well encrypted, and of a polynomial that does not go through its secrets."""
    here = house(4, rounds=1, wait_for=3)

    def false(message: Message) -> Message:
        state = aggregator(here, "pi-1")._state
        if isinstance(message, SecureShares):
            sent = [
                share
                and encrypt(
                    *(agreeing(state.share_private), peer.share_key, state.how.id),
                    *(("pi-1", peer.name), bytes([at]) * 32),
                )
                for at, (peer, share) in enumerate(
                    zip(state.peers, message.shares, strict=True)
                )
            ]
            return replace(message, shares=sent)
        if isinstance(message, SecureReveal):
            told = list(message.shares)
            told[state.own] = bytes(16)
            return replace(message, shares=told)
        return message

    alter(here, "pi-1", false)
    here.until(lambda: "pi-1" in refusals(here), 3000)
    assert set(refusals(here)) == {"pi-1"}
    assert "cannot be read, or do not fit" in refusals(here)["pi-1"][2]


def test_a_share_that_is_revealed_wrongly_is_named_and_the_round_goes_on(
    house: Make,
) -> None:
    here = house(5, rounds=1)

    def wrong(message: Message) -> Message:
        if isinstance(message, SecureReveal):
            return replace(message, shares=noise(message.shares))
        return message

    alter(here, "pi-1", wrong)
    here.run(3000)
    why = "a share that it revealed does not fit"
    assert refusals(here) == {"pi-1": ("unmasking", 1, why)}
    assert phases(here) == ["done"]


def test_a_neighbours_keys_that_were_altered_on_the_way_are_refused_by_its_name(
    house: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the device that is told them, whatever the coordinator has checked."""
    here = house(5, rounds=1)
    sign_keys(here)
    true = SecureState.peers

    def altered(state: SecureState, device: str) -> SecurePeers:
        told = true(state, device)
        if device != "pi-1":
            return told
        another = public_of(b"7" * 32)
        peers = [
            replace(peer, share_key=another) if peer.name == "pi-2" else peer
            for peer in told.peers
        ]
        return replace(told, peers=peers)

    monkeypatch.setattr(SecureState, "peers", altered)
    here.run(3000)
    rows = here.coordinator.ledger._db.execute("SELECT device, why FROM tasks")
    why = {row["device"]: row["why"] for row in rows if row["why"]}
    assert list(why) == ["pi-1"]
    assert "the keys of neighbour pi-2 are not signed by it" in why["pi-1"]
    assert phases(here) == ["done"]
    assert check(here.recorded.said) == {"seed": 4, "key": 0}
