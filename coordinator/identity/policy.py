"""Decisions on tokens, names and certificates, over values, with no I/O."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from edge_sdk.errors import IdentityError

__all__ = [
    "DAY_S",
    "NEW_KEYS_A_DAY",
    "RESERVED",
    "Grant",
    "TokenRow",
    "check_clock",
    "check_new_name",
    "check_renewal",
    "free_names",
    "is_guarded",
    "redeem",
    "renewal_due",
    "valid_keys",
]

RESERVED = frozenset({"all", "authority", "broker", "check", "coordinator"})
NOT_BEFORE_2024 = 1_704_067_200  # seconds; this version is younger
DAY_S = 86_400
NEW_KEYS_A_DAY = 4  # for a device that loses the key it has just had certified

Grant: TypeAlias = Literal["new", "again"]


@dataclass(frozen=True, slots=True)
class TokenRow:
    """A token as recorded; its secret is not.

    Attributes:
        name: The device it lets in.
        until: Unix seconds of its end.
        key: The raw public key that used it; None before.
    """

    name: str
    until: int
    key: bytes | None = None


def redeem(row: TokenRow | None, key: bytes, now: int) -> Grant:
    """Decide what a token permits to the holder of a key: a certificate, or it again.

    A token is used once, by one key. Whoever comes again with the same key has not
    heard our answer, and gets it again: nobody else can hold that key.

    Args:
        row: What is recorded of the token; None if nothing.
        key: The raw public key of the request.
        now: Unix seconds.

    Raises:
        IdentityError: If it allows nothing, with the reason.
    """
    if row is None:
        raise IdentityError("this token is not known here, or a newer one replaced it")
    if row.key is not None:
        if row.key == key:
            return "again"
        raise IdentityError(f"this token was used already, to enrol {row.name}")
    if now >= row.until:
        raise IdentityError(f"this token for {row.name} is too old")
    return "new"


def check_new_name(name: str, enrolled: Collection[str]) -> None:
    """Refuses a name that no new device may have.

    Raises:
        IdentityError: It is taken, or reserved.
    """
    if name in RESERVED:
        raise IdentityError(
            f"the name {name} is reserved", remedy="Choose another name."
        )
    if name in enrolled:
        raise IdentityError(
            f"the name {name} is taken by an enrolled device",
            remedy="Choose another name, or revoke the device first.",
        )


def free_names(prefix: str, count: int, taken: Collection[str]) -> Sequence[str]:
    """The first free names ``prefix-001``, ``prefix-002``, ...

    Example:
        >>> free_names("device", 2, {"device-001"})
        ['device-002', 'device-003']
    """
    names: list[str] = []
    number = 0
    while len(names) < count:
        number += 1
        name = f"{prefix}-{number:03d}"
        if name not in taken:
            names.append(name)
    return names


def check_clock(now: int) -> None:
    """Refuses to date anything by a clock that was never set.

    Raises:
        IdentityError: If so.
    """
    if now < NOT_BEFORE_2024:
        raise IdentityError(
            "the coordinator's clock was never set, so no token or certificate can end",
            remedy="Set it: timedatectl set-ntp true, or date -s.",
        )


def renewal_due(until: int, now: int, lifetime_s: int) -> bool:
    """Return whether less than a third of a certificate's life is left."""
    return until - now < lifetime_s / 3


def valid_keys(
    keys: Sequence[bytes], ends: Sequence[int], now: int
) -> tuple[bytes, ...]:
    """The keys whose certificates have not ended; every one has an end of its own.

    Args:
        keys: Raw public keys.
        ends: Unix seconds of the end of each one's certificate.
        now: Unix seconds.

    Example:
        >>> valid_keys([b"new", b"old"], [200, 100], now=100)
        (b'new',)
    """
    return tuple(k for k, end in zip(keys, ends, strict=True) if now < end)


def check_renewal(until: int, ends: Collection[int], now: int, lifetime_s: int) -> None:
    """Refuses another certificate to a device that needs none.

    Args:
        until: Unix seconds of the end of the oldest certificate that is still accepted:
            the one in use until a newer one is.
        ends: The ends of its certificates.
        now: Unix seconds.
        lifetime_s: How long a certificate lasts.

    Raises:
        IdentityError: If the one in use is good for long, or too many were made.
    """
    if not renewal_due(until, now, lifetime_s):
        raise IdentityError(
            f"its certificate is good for {(until - now) // DAY_S} more days",
            remedy="Let it ask when less than a third of its life is left.",
        )
    made = sum(now - DAY_S < end - lifetime_s <= now for end in ends)
    if made >= NEW_KEYS_A_DAY:
        raise IdentityError(
            f"it had {made} certificates within a day and used none of them",
            remedy="Look whether it can write its identity folder: flash-edge doctor.",
        )


def is_guarded(*, insecure: bool, local: bool, enrolled: bool) -> bool:
    """Return whether a run asks for certificates and signatures.

    Args:
        insecure: Whether the user asks for plain MQTT.
        local: Whether broker and coordinator are reached on this machine only.
        enrolled: Whether the run has an authority.

    Raises:
        IdentityError: If plain MQTT is asked for where other machines can listen.
    """
    if insecure and not local:
        raise IdentityError(
            "insecure = true is for one machine, and other machines reach this address",
            remedy="Take it out, then: flash-coordinator enroll RUN --new NAME; "
            "or use the address 127.0.0.1.",
        )
    return not insecure and (enrolled or not local)
