"""Rows of complex numbers: Fourier transforms, of windows too, and arithmetic."""

__all__: list[str] = []
