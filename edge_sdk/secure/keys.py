"""Keys of one device in one round: agreed, signed, and what is encrypted with them."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import TypeAlias

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import (
    X25519PrivateKey,
    X25519PublicKey,
)
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256, Hash
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from edge_sdk.errors import RemoteProtocolError

__all__ = [
    "KEY",
    "Agree",
    "agreeing",
    "decrypt",
    "derived_share",
    "encrypt",
    "expanded",
    "is_usable",
    "mask_key",
    "noise_key",
    "public_of",
    "seed_digest",
    "signed_keys",
]

Agree: TypeAlias = Callable[[bytes], bytes]  # another's public key -> a shared secret
KEY = 32  # bytes of each key, public or private
_NEIGHBOURS = 255  # of a device at most
_NONCE = bytes(12)  # each key encrypts one message
_P = (1 << 255) - 19
# u of the points of order 1, 2, 4 and 8 (Bernstein, Curve25519, "validate keys").
_SMALL_ORDER = frozenset(
    {
        *(0, 1, _P - 1),
        325606250916557431795983626356110631294008115727848805560023387167927233504,
        39382357235489614581723060781553021112529911719440698176882885853963445705823,
    }
)


def public_of(private: bytes) -> bytes:
    """The public half of a raw X25519 key."""
    return _private(private).public_key().public_bytes_raw()


def expanded(secret: bytes, round_id: bytes) -> bytes:
    """The key that a secret stands for: of a stream, or private for X25519.

    A secret is what is shared out, so a short one saves bytes; 128 bits are what
    X25519 has. One of 32 bytes is the key.
    """
    if len(secret) == KEY:
        return secret
    return HKDF(SHA256(), KEY, None, b"flash-edge secret\0" + round_id).derive(secret)


def noise_key(secret: bytes, round_id: bytes) -> bytes:
    """The key that a device's noise of one round is drawn from."""
    return HKDF(SHA256(), KEY, None, b"flash-edge noise\0" + round_id).derive(secret)


def is_usable(public: bytes) -> bool:
    """Return whether a raw X25519 key can be agreed with: no point of small order.

    The library refuses such a point too, but only where a secret is agreed; to look
    costs a thousandth of that.
    """
    u = int.from_bytes(public, "little") & ((1 << 255) - 1)
    return u % _P not in _SMALL_ORDER


def seed_digest(seed: bytes, round_id: bytes) -> bytes:
    """The digest by which a device is bound to the seed of its own mask."""
    digest = Hash(SHA256())
    digest.update(b"flash-edge seed\0" + round_id + seed)
    return digest.finalize()


def signed_keys(
    federation: str, round_id: bytes, device: str, share_key: bytes, mask_key: bytes
) -> bytes:
    """The bytes that a device signs under its identity: its keys, and what they are of.

    No message begins so: a header is a map.
    """
    names = b"\0".join(name.encode() for name in (federation, device))
    return b"secure-keys\0" + names + b"\0" + round_id + share_key + mask_key


@lru_cache(maxsize=2)
def _private(raw: bytes) -> X25519PrivateKey:
    """The key of its bytes; to make one takes as long as to agree with a neighbour."""
    return X25519PrivateKey.from_private_bytes(raw)


def agreeing(private: bytes) -> Agree:
    """The agreement of a private key with others' public keys, each made once.

    A device agrees with each neighbour on what it sends, and again on what it gets.
    """

    @lru_cache(maxsize=_NEIGHBOURS)
    def agree(public: bytes) -> bytes:
        try:
            other = X25519PublicKey.from_public_bytes(public)
            return _private(private).exchange(other)
        except ValueError as error:  # a point of small order
            raise RemoteProtocolError("it is no usable X25519 key") from error

    return agree


def _agreed(agree: Agree, public: bytes, what: bytes, size: int = KEY) -> bytes:
    """So many bytes that the two holders of these key pairs share."""
    return HKDF(SHA256(), size, None, what).derive(agree(public))


def mask_key(private: bytes, public: bytes, round_id: bytes) -> bytes:
    """The key of the mask that two devices share, the same for both.

    Raises:
        RemoteProtocolError: If the public key is none.
    """
    return _agreed(agreeing(private), public, b"flash-edge mask\0" + round_id)


def derived_share(
    agree: Agree, public: bytes, round_id: bytes, way: tuple[str, str], size: int
) -> bytes:
    """A share that sender and receiver both make, and nobody has to send.

    Args:
        agree: Of the one that asks.
        public: The other's.
        round_id: The round's.
        way: Names of sender and receiver.
        size: Its bytes.

    Raises:
        RemoteProtocolError: If the public key is none.
    """
    what = b"flash-edge derived share\0" + round_id + _names(way)
    return _agreed(agree, public, what, size)


def encrypt(
    agree: Agree, public: bytes, round_id: bytes, way: tuple[str, str], text: bytes
) -> bytes:
    """A text that only the other device can read.

    Args:
        agree: The sender's.
        public: The other's.
        round_id: The round's.
        way: Names of sender and receiver.
        text: One for each round and way.

    Raises:
        RemoteProtocolError: If the public key is none.
    """
    return ChaCha20Poly1305(_way_key(agree, public, round_id, way)).encrypt(
        _NONCE, text, None
    )


def decrypt(
    agree: Agree, public: bytes, round_id: bytes, way: tuple[str, str], sent: bytes
) -> bytes:
    """The text that another device has encrypted to this one.

    Raises:
        RemoteProtocolError: If it was not.
    """
    try:
        return ChaCha20Poly1305(_way_key(agree, public, round_id, way)).decrypt(
            _NONCE, sent, None
        )
    except InvalidTag as error:
        raise RemoteProtocolError(
            f"the shares of {way[0]} were not encrypted to {way[1]}, or altered"
        ) from error


def _way_key(
    agree: Agree, public: bytes, round_id: bytes, way: tuple[str, str]
) -> bytes:
    what = b"flash-edge shares\0" + round_id + _names(way)
    return _agreed(agree, public, what)


def _names(way: tuple[str, str]) -> bytes:
    return "\0".join(way).encode()
