"""A federation that lives: its data shift, a class and devices come, one goes."""

__all__: list[str] = []
