"""The sum of a secure round: masked vectors added up, and the masks taken away."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from coordinator.rounds.secure.graph import threshold_of
from edge_sdk.errors import RemoteProtocolError, RunError
from edge_sdk.secure.keys import expanded, mask_key, public_of, seed_digest
from edge_sdk.secure.masks import add_pairs, stream
from edge_sdk.secure.shamir import combine, combine_all
from edge_sdk.wire.secure.fixed_point import Ring, centred, dtype_of
from edge_sdk.wire.secure.messages import SecureKeys

__all__ = ["SecureCohort", "secret_of", "too_few_shares", "unmasked", "unreadable"]

_TRIES = 64  # choices of shares that are tried before a secret is given up


@dataclass(frozen=True)
class SecureCohort:
    """The devices that mask with each other, as they were told.

    Attributes:
        round_id: The round's.
        bits: Of the ring.
        sizes: How many numbers each level has, smallest first.
        keys: Device to its keys.
        holders: Device to who holds its shares, by name, itself among them.
        levels: Device to its level, from 1; without those that are out.
    """

    round_id: bytes
    bits: int
    sizes: tuple[int, ...]
    keys: Mapping[str, SecureKeys]
    holders: Mapping[str, tuple[str, ...]]
    levels: Mapping[str, int]

    def threshold(self, device: str) -> int:
        """Holders that give back a secret of a device."""
        return threshold_of(len(self.holders[device]))

    def shares_for(
        self, device: str, revealed: Mapping[str, list[bytes]]
    ) -> dict[int, bytes]:
        """Shares of one device's secret, by their points.

        Args:
            device: Whose.
            revealed: Device to what it has revealed, in the order of its holders.
        """
        found = {}
        for point, holder in enumerate(self.holders[device], 1):
            if holder in revealed:
                share = revealed[holder][self.holders[holder].index(device)]
                if share:
                    found[point] = share
        return found


def too_few_shares(cohort: SecureCohort, revealed: Mapping[str, list[bytes]]) -> str:
    """The device of whose masks too few shares are here, in words; "" if none is."""
    for device in sorted(cohort.levels):
        held, wanted = (
            len(cohort.shares_for(device, revealed)),
            cohort.threshold(device),
        )
        if held < wanted:
            return (
                f"the sum cannot be read: {held} devices revealed a share of the masks "
                f"of {device}, {wanted} are needed"
            )
    return ""


def secret_of(
    cohort: SecureCohort,
    device: str,
    revealed: Mapping[str, list[bytes]],
    *,
    arrived: bool,
) -> tuple[bytes, list[str]]:
    """A device's seed if its update arrived, else its key; and whose share is wrong.

    Args:
        cohort: Who masks with whom.
        device: Whose secret.
        revealed: Device to what it has revealed.
        arrived: Whether the device's update is in the sum.

    Raises:
        RunError: If there are too few shares, or they fit no secret of the device.
    """
    shares, wanted = cohort.shares_for(device, revealed), cohort.threshold(device)
    if len(shares) < wanted:
        raise RunError(
            f"{len(shares)} devices hold a share of the masks of {device}, {wanted} "
            "are needed"
        )
    points = sorted(shares)
    keys = cohort.keys[device]
    for chosen in _choices(points, wanted):
        secret = combine({point: shares[point] for point in chosen})
        if arrived:
            fits = seed_digest(secret, cohort.round_id) == keys.seed
        else:
            fits = public_of(expanded(secret, cohort.round_id)) == keys.mask_key
        if fits:
            base = {point: shares[point] for point in chosen}
            told = zip(points, combine_all(base, points), strict=True)
            wrong = [point for point, share in told if share != shares[point]]
            holders = cohort.holders[device]
            return secret, [holders[point - 1] for point in wrong]
    names = [cohort.holders[device][point - 1] for point in points]
    raise RunError(
        f"shares of the masks of {device} do not fit: one of {', '.join(names[:8])} "
        f"gives a wrong one, or {device} itself did"
    )


def unreadable(
    cohort: SecureCohort, revealed: Mapping[str, list[bytes]], arrived: Collection[str]
) -> list[str]:
    """Devices whose secret no shares give, though all have answered: they shared none.

    Args:
        cohort: Who masks with whom.
        revealed: Device to what it has revealed.
        arrived: Whose updates are in the sum.
    """

    def reads(device: str) -> bool:
        with contextlib.suppress(RunError):
            secret_of(cohort, device, revealed, arrived=device in arrived)
            return True
        return False

    return [device for device in sorted(cohort.levels) if not reads(device)]


def _choices(points: list[int], wanted: int) -> Iterable[list[int]]:
    """Choices of so many points: a wrong one among them is in few of the first."""
    count = len(points)
    yield points[:wanted]
    if count == wanted:
        return
    rng = np.random.default_rng(count)
    starts = [[*points[at:], *points[:at]][:wanted] for at in range(1, count)]
    yield from islice(starts, _TRIES)
    for _ in range(_TRIES):
        yield [points[at] for at in sorted(rng.permutation(count)[:wanted])]


def unmasked(
    cohort: SecureCohort,
    vectors: Iterable[tuple[str, Ring]],
    revealed: Mapping[str, list[bytes]],
) -> tuple[NDArray[np.int64], NDArray[np.int64], list[str]]:
    """The sum of the vectors without their masks, and of how many devices each is.

    Args:
        cohort: Who masks with whom.
        vectors: (device, masked vector) of those that arrived, read once.
        revealed: Device to what it has revealed.

    Returns:
        Sums, as signed numbers; devices in each; who revealed a wrong share.

    Raises:
        RunError: As `secret_of`; or a vector has another length than its level's.
    """
    size = cohort.sizes[max(cohort.levels.values()) - 1]
    total = np.zeros(size, dtype_of(cohort.bits))
    count = np.zeros(size, np.int64)
    wrong: set[str] = set()
    arrived = []
    for device, vector in vectors:
        own = cohort.sizes[cohort.levels[device] - 1]
        if vector.size != own:
            raise RunError(f"the vector of {device} has another length than its level")
        total[:own] += vector
        count[:own] += 1
        arrived.append(device)
        seed, liars = secret_of(cohort, device, revealed, arrived=True)
        total[:own] -= stream(expanded(seed, cohort.round_id), own, cohort.bits)
        wrong.update(liars)
    for device in sorted(cohort.levels.keys() - set(arrived)):
        secret, liars = secret_of(cohort, device, revealed, arrived=False)
        key = expanded(secret, cohort.round_id)
        wrong.update(liars)
        # What the device would have added for its pairs, and its pairs took away.
        pairs = []
        for other in cohort.holders[device]:
            if other == device or other not in arrived:
                continue
            level = min(cohort.levels[device], cohort.levels[other])
            try:
                shared = mask_key(key, cohort.keys[other].mask_key, cohort.round_id)
            except RemoteProtocolError as error:
                raise RunError(f"the mask key of {other}: {error}") from error
            pairs.append((other, shared, cohort.sizes[level - 1]))
        add_pairs(total, device, pairs, cohort.bits)
    return centred(total), count, sorted(wrong)
