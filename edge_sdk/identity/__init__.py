"""Decides whose key this device has, and whose signature it believes."""

__all__: list[str] = []
