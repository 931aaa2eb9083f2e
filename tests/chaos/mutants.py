"""Faults of thought, one patch each: what the checker or a named test has to catch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

MUTANTS: Mapping[str, Callable[[], None]] = MappingProxyType({})
