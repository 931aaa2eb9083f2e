"""The algorithms, one file each, in one literal table."""

from coordinator.algorithm import Algorithm
from coordinator.algorithms.equal_counts import equal_counts
from coordinator.algorithms.erk import erk_frozen
from coordinator.algorithms.fedavg import fedavg
from coordinator.algorithms.flash import flash_edge, hetero_flash, spdst
from coordinator.algorithms.pdst import pdst

__all__ = ["ALGORITHMS"]

ALGORITHMS: dict[str, Algorithm] = {
    "fedavg": fedavg(),
    "pdst": pdst(),
    "erk": erk_frozen(),
    "equal-counts": equal_counts(),
    "flash": spdst(),
    "hetero-flash": hetero_flash(),
    "flash-edge": flash_edge(),
}
