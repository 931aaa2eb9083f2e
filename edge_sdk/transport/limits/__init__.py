"""A broker's limits: known, told or found out; and keeping to them."""

from edge_sdk.transport.limits.values import (
    NO_LIMIT,
    PROFILES,
    BrokerLimits,
    limits_of,
    told,
)

__all__ = ["NO_LIMIT", "PROFILES", "BrokerLimits", "limits_of", "told"]
