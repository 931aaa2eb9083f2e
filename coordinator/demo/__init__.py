"""A whole federation on this machine, as real processes over real MQTT."""

__all__: list[str] = []
