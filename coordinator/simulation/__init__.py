"""Decides how one machine trains a whole fleet by the same algorithms."""

__all__: list[str] = []
