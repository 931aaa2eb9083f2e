"""The training program: a model and its loss as a checked list of kernel calls."""

__all__: list[str] = []
