"""Secure rounds whose devices draw noise: their orders, and what sums will tell."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from coordinator.algorithms.base import MaskFamily
from coordinator.algorithms.mean import Model
from coordinator.algorithms.privacy import check_next_round, keep_sum_noise
from coordinator.algorithms.privacy.distributed import guaranteed
from coordinator.ledger import Ledger
from coordinator.rounds.secure.orders import masked_orders
from coordinator.rounds.secure.stages import SecureState
from coordinator.settings import RunSettings
from edge_sdk.wire.messages import TaskOrder

__all__ = ["count_sum", "secure_orders"]


def secure_orders(
    settings: RunSettings,
    ledger: Ledger,
    orders: Mapping[str, TaskOrder],
    family: MaskFamily,
    base: Model,
    examples: Mapping[str, int],
) -> dict[str, TaskOrder]:
    """The orders of a round whose updates are masked, if the budget has room for it.

    Args:
        settings: The run.
        ledger: Its durable memory.
        orders: Device to its order.
        family: The round's masks.
        base: The global model.
        examples: Device to how many it has.

    Raises:
        RunError: As `masked_orders`; or the budget of privacy is spent.
    """
    privacy = settings.privacy
    if privacy.distributed:
        check_next_round(ledger, settings)
    given = orders, family, base, examples
    return masked_orders(*given, privacy, settings.cohort)


def count_sum(
    ledger: Ledger, no: int, state: SecureState, arrived: Collection[str]
) -> None:
    """Count what a sum will tell, before anybody is asked to unmask it.

    Args:
        ledger: The run's durable memory.
        no: The round.
        state: Its cohort.
        arrived: Whose updates are in the sum.
    """
    if state.noise is not None:
        size = max(state.cohort().sizes)
        noise = guaranteed(state.noise, state.fewest(arrived), size)
        keep_sum_noise(ledger, no, noise)
