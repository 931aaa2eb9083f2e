"""TCP connections: to hosts by name, and with an end to what is done on them."""

from edge_sdk.transport.tcp.deadline import cut_after
from edge_sdk.transport.tcp.host_names import HostNameError, connection_to

__all__ = ["HostNameError", "connection_to", "cut_after"]
