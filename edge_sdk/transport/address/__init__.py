"""Broker addresses: values, their text in settings, and SRV records."""

from edge_sdk.transport.address.records import reachable
from edge_sdk.transport.address.tls_files import Tls
from edge_sdk.transport.address.url import (
    DEFAULT_PORT,
    parse_url,
    url_for_devices,
)
from edge_sdk.transport.address.value import Address, is_local, unusable

__all__ = [
    "DEFAULT_PORT",
    "Address",
    "Tls",
    "is_local",
    "parse_url",
    "reachable",
    "unusable",
    "url_for_devices",
]
