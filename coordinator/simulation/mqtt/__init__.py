"""Decides how a simulated fleet takes part over a real broker: the same protocol."""

from coordinator.simulation.mqtt.open import over_mqtt

__all__ = ["over_mqtt"]
