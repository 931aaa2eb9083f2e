"""A simulated fleet over a real broker: the federation's protocol, training elsewhere.

======== ========================================================================
open     broker, devices and desk put together
devices  the fleet: the federation's own agent for each device, in one process
desk     the coordinator's side of one round, and how long it is waited for
tally    what the devices' links carried, by what it was
======== ========================================================================
"""

from coordinator.simulation.mqtt.open import over_mqtt

__all__ = ["over_mqtt"]
