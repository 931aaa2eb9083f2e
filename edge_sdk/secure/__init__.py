"""Secure aggregation: the coordinator learns a sum of updates, and none of them.

Bonawitz et al., CCS 2017, on a k-regular graph of neighbours (Bell et al., CCS 2020).
"""

__all__: list[str] = []
