"""Runs a whole federation on this machine: real processes over real MQTT."""

__all__: list[str] = []
