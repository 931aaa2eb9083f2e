"""Rows of random numbers: of even draws, by formulas and by choices among tries."""

__all__: list[str] = []
