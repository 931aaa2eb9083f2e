"""Decides when and how hard a device trains: its owner's limits, enforced."""

__all__: list[str] = []
