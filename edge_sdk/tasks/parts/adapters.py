"""Low-rank adapters as a setting of a task or a run."""

from __future__ import annotations

from typing import Annotated

import msgspec

__all__ = ["Adapters"]


class Adapters(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Low-rank adapters: they train and travel, the layers they are on do not.

    Attributes:
        rank: Of each; the change of a layer's weight is a product of two matrices of
            this many columns and rows.
        on: Patterns of Linear and Conv layers, by their names in the model.
        train: Patterns of what else trains, whole: a new head. All other entries of
            the model are frozen.
    """

    rank: Annotated[int, msgspec.Meta(ge=1)]
    on: Annotated[tuple[str, ...], msgspec.Meta(min_length=1)]
    train: tuple[str, ...] = ()
