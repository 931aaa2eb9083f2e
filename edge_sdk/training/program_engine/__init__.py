"""Programs as an engine of the training loop, on a board without torch."""

__all__: list[str] = []
