"""Decides which MQTT broker a run has, how it is configured, started and watched."""

__all__: list[str] = []
