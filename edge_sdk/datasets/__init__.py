"""Data sets: fetched, read, and split into one private folder per device."""

__all__: list[str] = []
