"""The board: measured, checked, kept inside its owner's limits, set up."""

__all__: list[str] = []
