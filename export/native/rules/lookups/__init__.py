"""Rules for places that are computed: lookups, scatters, sampling, sorting."""

from __future__ import annotations

from export.native.rules.lookups import places, sampling, sorting

__all__ = ["RULES"]

RULES = {**places.RULES, **sampling.RULES, **sorting.RULES}
