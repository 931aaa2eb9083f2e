"""The hash chain in the ledger of what decides a run's models."""

__all__: list[str] = []
