"""The same algorithms without a network: one machine plays a whole fleet."""

__all__: list[str] = []
