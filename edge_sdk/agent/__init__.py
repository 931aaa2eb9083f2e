"""Decides what a device does next: a session on a transport, a journal, a trainer.

One network thread fills a bounded queue; one loop empties it, advances the pure
session and carries out its effects; one worker thread trains.
"""

from edge_sdk.agent.loop import Agent
from edge_sdk.agent.parts import Connect, DeviceKeys, Identity, Runner

__all__ = ["Agent", "Connect", "DeviceKeys", "Identity", "Runner"]
