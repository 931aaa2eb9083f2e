"""`Mask`: which weights a model keeps. The mask is the truth; zeros are not."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from edge_sdk.errors import MaskMismatchError, SparsityError
from edge_sdk.sparse.units import Units

__all__ = ["LayerShape", "Mask"]

_DIGEST_DOMAIN = b"flash-edge mask v1\n"  # a released digest never changes meaning


@dataclass(frozen=True, slots=True)
class LayerShape:
    """One maskable weight tensor.

    Attributes:
        name: The key of the weight in the model's ``state_dict``.
        shape: (out, in / groups, *kernel); a linear layer has no kernel.
        groups: Convolution groups; 1 for linear layers.
        outputs: The units that its rows make, where they can be cut; None keeps them.
        inputs: The units that its columns read, where they can be cut.
        columns_out: True where the columns make the output units, and not the rows:
            transposed convolutions, and embeddings, whose rows are the tokens.
    """

    name: str
    shape: tuple[int, ...]
    groups: int = 1
    outputs: Units | None = field(default=None, compare=False)
    inputs: Units | None = field(default=None, compare=False)
    columns_out: bool = field(default=False, compare=False)

    def __post_init__(self) -> None:
        if len(self.shape) < 2 or min(self.shape) < 1:
            raise SparsityError(f"layer {self.name} has no units: shape {self.shape}")
        if self.groups < 1 or self.shape[0] % self.groups:
            raise SparsityError(
                f"layer {self.name}: {self.shape[0]} output units do not divide "
                f"into {self.groups} groups"
            )

    @property
    def numel(self) -> int:
        """Number of weights when dense."""
        return math.prod(self.shape)

    @property
    def floor(self) -> int:
        """Fewest weights that leave every output and every input unit connected.

        Within a group of R output and C input units, max(R, C) weights can touch all.
        Of an embedding, a token that keeps none has a zero vector: it is no unit.
        """
        if self.columns_out and len(self.shape) == 2:
            return self.least
        out = self.shape[0] // self.groups
        return self.groups * max(out, self.shape[1])

    @property
    def least(self) -> int:
        """Fewest weights that leave every output unit one."""
        return self.groups * self.shape[1] if self.columns_out else self.shape[0]


@dataclass(frozen=True, eq=False)
class Mask:
    """Boolean pattern per layer; True is kept.

    Attributes:
        layers: Weight name to a C-contiguous boolean array of the weight's shape. The
            order is the model's own and is the order of values on the wire.

    Example:
        >>> mask = Mask({"fc.weight": np.eye(3, dtype=bool)})
        >>> mask.nnz, mask.numel, round(mask.density, 3)
        (3, 9, 0.333)
    """

    layers: Mapping[str, NDArray[np.bool_]]

    def __post_init__(self) -> None:
        frozen: dict[str, NDArray[np.bool_]] = {}
        for name, pattern in self.layers.items():
            if pattern.dtype != np.bool_ or pattern.ndim < 2:
                raise SparsityError(
                    f"the mask of {name} must be boolean with at least two axes, "
                    f"not {pattern.dtype} of shape {pattern.shape}"
                )
            own = np.ascontiguousarray(pattern)
            if own is pattern:
                own = pattern.view()
            own.flags.writeable = False
            frozen[name] = own
        object.__setattr__(self, "layers", MappingProxyType(frozen))

    @classmethod
    def full(cls, shapes: Iterable[LayerShape]) -> Mask:
        """The mask of a dense model."""
        return cls({s.name: np.ones(s.shape, np.bool_) for s in shapes})

    def __iter__(self) -> Iterator[str]:
        return iter(self.layers)

    def __getitem__(self, name: str) -> NDArray[np.bool_]:
        return self.layers[name]

    def __len__(self) -> int:
        return len(self.layers)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Mask) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    @cached_property
    def counts(self) -> Mapping[str, int]:
        """Kept weights per layer."""
        return MappingProxyType(
            {name: int(np.count_nonzero(p)) for name, p in self.layers.items()}
        )

    @property
    def nnz(self) -> int:
        """Kept weights in all."""
        return sum(self.counts.values())

    @property
    def numel(self) -> int:
        """Maskable weights in all."""
        return sum(p.size for p in self.layers.values())

    @property
    def density(self) -> float:
        """Kept over maskable weights."""
        return self.nnz / self.numel if self.layers else 1.0

    @cached_property
    def digest(self) -> bytes:
        """SHA-256 over names, shapes and patterns in the layers' order, 32 bytes.

        The order counts: values travel in it.
        """
        sha = hashlib.sha256(_DIGEST_DOMAIN)
        for name, pattern in self.layers.items():
            shape = ",".join(map(str, pattern.shape))
            sha.update(f"{name}\0{shape}\0".encode())
            sha.update(np.packbits(pattern, bitorder="little").tobytes())
        return sha.digest()

    def flat(self, name: str) -> NDArray[np.int64]:
        """Positions kept in one layer, ascending, in the flattened weight: (nnz,)."""
        return np.flatnonzero(self.layers[name])

    def issubset(self, other: Mask) -> bool:
        """Return whether every weight kept here is kept in `other` too."""
        if list(self.layers) != list(other.layers):
            return False
        return all(
            self[n].shape == other[n].shape and not np.any(self[n] & ~other[n])
            for n in self.layers
        )

    def within(self, outer: Mask, name: str) -> NDArray[np.int64]:
        """Positions of one layer's values among `outer`'s values: (nnz,).

        Raises:
            MaskMismatchError: If this mask is not nested in `outer`.
        """
        if not self.issubset(outer):
            raise MaskMismatchError(f"layer {name}: the sub-mask is not nested")
        rank = np.cumsum(outer[name].reshape(-1)) - 1
        return rank[self.flat(name)]

    def jaccard_distance(self, other: Mask) -> float:
        """Mask mismatch, 1 - |A n B| / |A u B| (FLASH, arXiv:2208.13092, Eq. 1)."""
        both = sum(int(np.count_nonzero(self[n] & other[n])) for n in self.layers)
        either = sum(int(np.count_nonzero(self[n] | other[n])) for n in self.layers)
        return 1.0 - both / either if either else 0.0
