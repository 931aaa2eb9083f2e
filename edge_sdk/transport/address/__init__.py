"""Broker addresses: values, their text in settings, and SRV records."""

from edge_sdk.transport.address.records import reachable
from edge_sdk.transport.address.redirect import MOVED, sent_on
from edge_sdk.transport.address.tls_files import Tls
from edge_sdk.transport.address.url import (
    DEFAULT_PORT,
    parse_url,
    url_for_devices,
)
from edge_sdk.transport.address.value import Address, is_local, unusable

__all__ = [
    "DEFAULT_PORT",
    "MOVED",
    "Address",
    "Tls",
    "is_local",
    "parse_url",
    "reachable",
    "sent_on",
    "unusable",
    "url_for_devices",
]
