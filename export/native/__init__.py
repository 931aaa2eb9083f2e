"""Decides the native bundle: a lowered program, its file format, a C++ runtime."""

__all__: list[str] = []
