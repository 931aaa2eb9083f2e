"""The commands of `flash-edge`: each parses, calls a function, prints."""

__all__: list[str] = []
