"""A task's factory whose models have low-rank adapters."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from torch import nn

from edge_sdk.tasks.parts.low_rank import ADAPTER, add_adapters

__all__ = ["AdaptedModel", "adapted", "is_adapter", "ranks_in"]

Factory: TypeAlias = Callable[[], nn.Module]


@dataclass(frozen=True)
class AdaptedModel:
    """A factory of models with adapters.

    Attributes:
        plain: Makes the model without them.
        ranks: Name of a layer to its adapter's rank.
    """

    plain: Factory
    ranks: Mapping[str, int]

    def __call__(self) -> nn.Module:
        """A fresh model; the plain one's entries are as if it had no adapters."""
        model = self.plain()
        add_adapters(model, self.ranks)
        return model


def adapted(factory: Factory, ranks: Mapping[str, int]) -> Factory:
    """The factory of models with these adapters, in place of any others.

    Args:
        factory: With adapters or without.
        ranks: Name of a layer to its adapter's rank; none gives the plain factory.
    """
    plain = factory.plain if isinstance(factory, AdaptedModel) else factory
    return AdaptedModel(plain, dict(ranks)) if ranks else plain


def ranks_in(factory: Factory) -> Mapping[str, int]:
    """Name to rank of the adapters that a factory's models have."""
    return factory.ranks if isinstance(factory, AdaptedModel) else {}


def is_adapter(name: str, ranks: Mapping[str, int]) -> bool:
    """True if an entry of a model's ``state_dict`` is of one of its adapters.

    Example:
        >>> is_adapter("fc.adapter.up.weight", {"fc": 2}), is_adapter("fc.bias", {})
        (True, False)
    """
    layer, found, _ = f".{name}".rpartition(f".{ADAPTER}.")
    return bool(found) and layer.removeprefix(".") in ranks
