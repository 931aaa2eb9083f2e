"""Decides what a model costs: multiply-accumulates, latency and memory.

Imports nothing: a child process that measures memory imports this package.
"""

__all__: list[str] = []
