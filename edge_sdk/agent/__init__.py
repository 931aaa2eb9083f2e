"""The device agent: runs a session on a transport, a journal and a trainer.

One network thread fills a bounded queue; one loop empties it, advances the pure
session and carries out its effects; one worker thread trains.

========== ======================================================================
parts      what an agent is made of: its identity, its keys, its trainer
loop       one bounded queue, emptied by one thread
duty       the session, and what each of its effects does
reception  whose message it is, whether it is new, and what it says of keys
cargo      a task's base on its way down, its update on its way up
work       the thread that trains, and how far it is
hold       whether the owner's limits hold the device back, and whom that is told
voice      what the device says, numbered and signed; HELLO and status
account    bytes that were moved, and the record that the journal keeps
========== ======================================================================
"""

from edge_sdk.agent.loop import Agent
from edge_sdk.agent.parts import Connect, DeviceKeys, Identity, Runner

__all__ = ["Agent", "Connect", "DeviceKeys", "Identity", "Runner"]
