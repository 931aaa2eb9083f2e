"""What torch does with a model that was captured: steps to compare a program with."""

__all__: list[str] = []
