"""A simulation's examples: folders of devices, or arrays written into such folders."""

__all__: list[str] = []
