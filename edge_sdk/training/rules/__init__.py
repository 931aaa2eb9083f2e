"""Local training by the rule of an order: warm-up, moving masks, SWAT."""

__all__: list[str] = []
