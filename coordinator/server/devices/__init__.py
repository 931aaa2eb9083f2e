"""Decides which devices are here, what each affords, and who may be asked."""

__all__: list[str] = []
