"""Rows of calls that only move values, or name them otherwise."""

__all__: list[str] = []
