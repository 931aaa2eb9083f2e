"""MQTT client of one connection: its socket, and paho with a reader of packets."""

from edge_sdk.transport.client.packets import PublishPacket
from edge_sdk.transport.client.paho_client import MAX_INCOMING, Client
from edge_sdk.transport.client.sockets import connected, secured
from edge_sdk.transport.client.waker import Waker, together, wake

__all__ = [
    "MAX_INCOMING",
    "Client",
    "PublishPacket",
    "Waker",
    "connected",
    "secured",
    "together",
    "wake",
]
