"""Decides how a device tests models on the examples that it does not train on."""

__all__: list[str] = []
