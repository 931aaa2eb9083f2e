"""Decides how packets reach the broker: MQTT, or its twin in memory."""

__all__: list[str] = []
