"""Secure rounds of a running coordinator."""

__all__: list[str] = []
