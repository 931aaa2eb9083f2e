"""The aggregate of a private run, and the key of its noise."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, Protocol

from coordinator.algorithms.base import Algorithm
from coordinator.algorithms.mean import coverage_mean
from coordinator.algorithms.privacy.accountant import epsilon_of
from coordinator.algorithms.privacy.check import PrivateRun
from coordinator.algorithms.privacy.private_mean import PrivateMean
from edge_sdk.errors import SettingsError

__all__ = ["ledger_secret", "with_privacy"]

log = logging.getLogger(__name__)
_SECRET_KEY = "noise_key"  # noqa: S105 - its name in the ledger
_SECRET_BYTES = 32


class SecretStore(Protocol):
    """Durable store of JSON values: the ledger."""

    def get(self, key: str) -> Any:
        """A stored value, or None."""
        ...

    def put(self, key: str, value: Any) -> None:
        """Stores a value."""
        ...


def ledger_secret(memory: SecretStore) -> bytes:
    """The key of the run's noise, drawn when it is first asked for; then the same."""
    kept = memory.get(_SECRET_KEY)
    if kept is None:
        kept = secrets.token_hex(_SECRET_BYTES)
        memory.put(_SECRET_KEY, kept)
    return bytes.fromhex(str(kept))


def with_privacy(
    algorithm: Algorithm,
    settings: PrivateRun,
    entries: Iterable[str],
    secret: Callable[[], bytes],
) -> Algorithm:
    """The algorithm with a private mean, if the run is private; a line says how far.

    Args:
        algorithm: The run's.
        settings: The run's.
        entries: Names of the model's state.
        secret: Gives the key of the noise.

    Raises:
        SettingsError: If the model has norm statistics, which are no gradient: noise
            makes variances negative, and their clip has no meaning. So it is under
            secure aggregation.
    """
    own = settings.privacy
    if not own.on:
        return algorithm
    norms = [name for name in entries if name.endswith("running_var")]
    if norms:
        layer = norms[0].removesuffix(".running_var")
        raise SettingsError(
            f"key privacy: layer {layer} of the model keeps statistics of the devices' "
            "examples (batch norm)",
            remedy="Take GroupNorm or LayerNorm in its place.",
        )
    if not own.noise_multiplier:
        return algorithm
    log.info(
        "private: updates up to %g long, %s noise %g times that; %d rounds come to "
        "epsilon %.3g at delta %g for a device in all of them",
        *(own.longest, own.noise, own.noise_multiplier, settings.rounds),
        *(epsilon_of(own.noise_multiplier, settings.rounds, own.delta), own.delta),
    )
    if own.distributed:  # it is in the sum, which is shared out already
        return replace(algorithm, aggregate=coverage_mean)
    mean = PrivateMean(own.longest, own.noise_multiplier, settings.cohort, secret())
    return replace(algorithm, aggregate=mean)
