"""Decides how data sets are fetched, read, and split into a folder per device."""

__all__: list[str] = []
