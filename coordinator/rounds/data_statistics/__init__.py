"""Statistics of the devices' examples: the question, whose count, where they go."""

__all__: list[str] = []
