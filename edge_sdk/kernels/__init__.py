"""Decides how the native sparse kernels are built, found and called."""

__all__: list[str] = []
