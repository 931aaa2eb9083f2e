"""Decides how a model is traced to its graph of layers, and which units can be cut."""

__all__: list[str] = []
