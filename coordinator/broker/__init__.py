"""Chooses, configures, starts and watches the MQTT broker of a run."""

__all__: list[str] = []
