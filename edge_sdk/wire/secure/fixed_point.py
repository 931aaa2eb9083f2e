"""Updates as whole numbers of a ring, whose sums are exact.

A value is clipped, weighed and rounded at random to a multiple of a step that all
devices share, so the sum of devices is that of their numbers modulo 2**bits, and has
the mean that the sum of their values has (`edge_sdk.wire.secure.layout` puts values in
a vector).
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

import msgspec
import numpy as np
from msgspec import UNSET
from numpy.typing import NDArray

from edge_sdk.errors import LocalProtocolError, RemoteProtocolError
from edge_sdk.wire.codec import pack_large, unpack
from edge_sdk.wire.named import Digest
from edge_sdk.wire.secure.messages import SecureRound

__all__ = [
    "Ring",
    "centred",
    "dtype_of",
    "masked_vector",
    "pack_ring",
    "steps_of",
    "to_fixed",
    "unpack_ring",
]

_ROUNDINGS = 24  # each is too long with a chance below 0.61
Ring: TypeAlias = NDArray[np.unsignedinteger[Any]]  # modulo 2**16 or 2**32


class _RingBody(msgspec.Struct, frozen=True, tag="ring"):
    version: Literal[1]
    mask: Digest
    bits: Literal[16, 32]
    values: Annotated[bytes, msgspec.Meta(min_length=1)]  # little-endian


def steps_of(bits: int, devices: int) -> int:
    """Largest whole number of one device: the sum of so many does not wrap around.

    Example:
        >>> steps_of(16, 100), steps_of(16, 4)
        (327, 8191)
    """
    return ((1 << bits - 1) - 1) // devices


def to_fixed(
    values: NDArray[np.float64], how: SecureRound, weight: float, words: Any
) -> Ring:
    """Clipped, weighed values as numbers of the ring.

    They are scaled down to the length that the round allows, then each one is cut.
    Where noise hides them, the rounded numbers are no longer than it allows either.

    Args:
        values: Of the whole update, floats of any size.
        how: The round's.
        weight: Share of a full weight, in (0, 1].
        words: A `numpy.random.Generator` that rounds at random.

    Raises:
        LocalProtocolError: If a value is not finite.
    """
    if not np.isfinite(values).all():
        raise LocalProtocolError(
            "a value of the update is not finite",
            remedy="Lower the learning rate, or look for broken examples.",
        )
    length = float(np.sqrt(np.square(values).sum())) if how.norm else 0.0
    if length > how.norm:
        values = values * (how.norm / length)
    exact = np.clip(values, -how.clip, how.clip) * (weight * how.steps / how.clip)
    whole = np.floor(exact + words.random(exact.shape)).astype(np.int64)
    if how.noise is not UNSET:
        for _ in range(_ROUNDINGS):
            if np.square(whole).sum() <= how.noise.longest:
                break
            whole = np.floor(exact + words.random(exact.shape)).astype(np.int64)
        else:
            whole = np.trunc(exact).astype(np.int64)  # no longer than the values are
    bounded = np.clip(whole, -how.steps, how.steps)
    ring: Ring = bounded.astype(dtype_of(how.bits))  # modulo: numpy wraps
    return ring


def dtype_of(bits: int) -> np.dtype[Any]:
    """The unsigned little-endian type of a ring."""
    return np.dtype("<u2" if bits == 16 else "<u4")


def centred(sums: Ring) -> NDArray[np.int64]:
    """A ring's numbers as signed ones, the nearest to 0."""
    kind = np.int16 if sums.dtype.itemsize == 2 else np.int32
    return np.asarray(sums.astype(sums.dtype.newbyteorder("=")).view(kind), np.int64)


def pack_ring(vector: Ring, mask: bytes) -> bytes:
    """The payload of a vector that stands on the mask of a digest."""
    bits: Literal[16, 32] = 16 if vector.dtype.itemsize == 2 else 32
    raw = vector.astype(dtype_of(bits)).tobytes()
    return pack_large(_RingBody(1, mask, bits, raw))


def unpack_ring(payload: bytes, mask: bytes, bits: int, size: int) -> Ring:
    """The vector in a payload.

    Args:
        payload: What `pack_ring` made.
        mask: Digest of the mask that it stands on.
        bits: Of the ring.
        size: How many numbers it has.

    Raises:
        RemoteProtocolError: If it is malformed, or another vector.
    """
    body = unpack(payload, _RingBody)
    if body.mask != mask:
        raise RemoteProtocolError(
            f"it was made with mask {body.mask.hex()[:12]}, not {mask.hex()[:12]}"
        )
    if body.bits != bits or len(body.values) != size * bits // 8:
        raise RemoteProtocolError(
            f"it has {len(body.values)} bytes of {body.bits}-bit numbers; the task "
            f"asks for {size} numbers of {bits} bits"
        )
    return np.frombuffer(body.values, dtype_of(bits))


def masked_vector(payload: bytes, mask: bytes, how: SecureRound) -> Ring:
    """The vector in a payload of a secure round, as long as any of its sizes.

    Args:
        payload: What `pack_ring` made.
        mask: Digest of the mask that it stands on.
        how: What the order says.

    Raises:
        RemoteProtocolError: If it is malformed, or another vector.
    """
    held = len(unpack(payload, _RingBody).values) * 8 // how.bits
    size = held if held in how.sizes else how.sizes[-1]
    return unpack_ring(payload, mask, how.bits, size)
