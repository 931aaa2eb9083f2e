"""A device's own test examples: which are held out, for the whole life of each.

An example is known by a key of its bytes and the run's seed, not by its place, so that
the same one is held out wherever it lies and however often it was copied. Data that
arrive later are divided beside what was: what was trained on is never tested on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

__all__ = ["Split", "example_keys", "is_classes", "split"]

Keys = NDArray[np.uint64]
_CLASSES = 1000  # more kinds of whole targets than these are values
_NO_KEYS: Keys = np.zeros(0, np.uint64)
_LOOKED = 64  # examples that are read before it is asked whether they are there


def _look_at_nothing() -> None:
    """Arrays in memory stay where they are."""


@dataclass(frozen=True)
class Split:
    """Positions of examples that are trained on and held out.

    Attributes:
        train: (n,) int64, ascending.
        held: (m,) int64, ascending.
        trained_keys: Keys of what is or was trained on, ascending.
        held_keys: Likewise of what is held out.
        why: Why nothing is held out, in words; empty otherwise.
    """

    train: NDArray[np.int64]
    held: NDArray[np.int64]
    trained_keys: Keys
    held_keys: Keys
    why: str = ""


def example_keys(
    inputs: NDArray[np.generic],
    targets: NDArray[np.generic],
    groups: NDArray[np.generic] | None,
    seed: int,
    look: Callable[[], None] = _look_at_nothing,
) -> Keys:
    """(n,) keys of examples: of their bytes, or of their group where they have one.

    Args:
        inputs: (n, ...), also a memory map; one example is looked at at a time.
        targets: (n, ...).
        groups: (n,) whole numbers; None for none.
        seed: The run's.
        look: Called every few examples; raises where the arrays are no longer there.
    """

    def digests() -> Iterator[bytes]:
        salt = seed.to_bytes(8, "little")
        for place in range(len(inputs)):
            if place % _LOOKED == 0:
                look()
            found = blake2b(digest_size=8, key=salt)
            if groups is None:
                found.update(np.ascontiguousarray(inputs[place]).tobytes())
                found.update(np.ascontiguousarray(targets[place]).tobytes())
            else:
                found.update(int(groups[place]).to_bytes(8, "little", signed=True))
            yield found.digest()

    return np.frombuffer(b"".join(digests()), np.uint64)


def is_classes(targets: NDArray[np.generic]) -> bool:
    """Return whether targets are classes: one whole number, or 0 or 1, per example."""
    if targets.ndim != 1 and targets.size != len(targets):
        return False
    flat = targets.reshape(-1)
    if flat.dtype.kind == "b" or np.isin(flat, (0, 1)).all():
        return True
    return flat.dtype.kind in "iu" and len(np.unique(flat[:100_000])) <= _CLASSES


def split(
    inputs: NDArray[np.generic],
    targets: NDArray[np.generic],
    groups: NDArray[np.generic] | None = None,
    *,
    share: float,
    seed: int,
    before: tuple[Keys, Keys] = (_NO_KEYS, _NO_KEYS),
    look: Callable[[], None] = _look_at_nothing,
) -> Split:
    """Hold out a share of the examples of each class; of groups, whole groups.

    Args:
        inputs: (n, ...) as the task reads them.
        targets: (n, ...).
        groups: (n,) recording, person or file of each; None where each stands alone.
        share: Of the examples, or of the groups; in [0, 1).
        seed: The run's.
        before: Keys trained on and keys held out so far: those stay what they are.
        look: As `example_keys` has it.

    Returns:
        A pure function of what is given. At least one example stays for training.
    """
    keys = example_keys(inputs, targets, groups, seed, look)
    strata = np.zeros(len(keys), np.int64)
    if groups is None and is_classes(targets):
        strata = np.unique(targets.reshape(-1), return_inverse=True)[1].reshape(-1)
    trained, held = (np.unique(known) for known in before)
    new: list[Keys] = []
    for stratum in np.unique(strata) if share > 0 else ():
        mine = np.unique(keys[strata == stratum])
        mine = mine[~np.isin(mine, np.concatenate([trained, *new]))]
        old = np.isin(mine, held)
        everyone = len(np.unique(keys[strata == stratum]))
        wanted = int(share * everyone + 0.5)
        if groups is not None and everyone > 1:
            wanted = max(wanted, 1)
        wanted = min(wanted, everyone - 1) - int(old.sum())
        new.append(mine[~old][: max(wanted, 0)])  # keys are random: their order is
    kept = np.unique(np.concatenate([held, *new]))
    out = np.isin(keys, kept)
    if out.all():  # all that there is was held out before
        out[:] = False
    places = np.flatnonzero(~out), np.flatnonzero(out)
    return Split(
        *places,
        np.unique(np.concatenate([trained, keys[~out]])),
        np.setdiff1d(kept, keys[~out]),
        "" if len(places[1]) or share <= 0 else _why(len(keys), groups, share),
    )


def _why(count: int, groups: NDArray[np.generic] | None, share: float) -> str:
    if groups is not None:
        return "all of its examples are of one group: none can be held out"
    return f"its {count} examples are too few to hold out {100 * share:g} % of a class"
