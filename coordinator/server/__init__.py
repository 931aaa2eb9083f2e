"""The running coordinator: one loop, the devices, the rounds, the global model."""

__all__: list[str] = []
