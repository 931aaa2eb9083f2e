"""Run a federation: rounds, aggregation, ledger, broker."""
