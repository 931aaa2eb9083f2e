"""Decides what an algorithm is and which ones there are: one table, by name."""

from collections.abc import Callable

from coordinator.algorithms.base import Algorithm
from coordinator.algorithms.methods.equal_counts import (
    equal_counts,
    equal_counts_scaled,
)
from coordinator.algorithms.methods.fedavgm import fedavgm
from coordinator.algorithms.methods.feddst import feddst
from coordinator.algorithms.methods.fedopt import fedadam, fedyogi
from coordinator.algorithms.methods.fedprox import fedprox
from coordinator.algorithms.methods.fixed_masks import erk_frozen, fedavg, pdst
from coordinator.algorithms.methods.fjord import fjord
from coordinator.algorithms.methods.flash import (
    flash_edge,
    flash_scaled,
    flash_trained,
    hetero_flash,
    spdst,
)
from coordinator.algorithms.methods.heterofl import heterofl
from coordinator.algorithms.methods.jmwst import jmwst, jmwst_every
from coordinator.algorithms.methods.nst import nst
from coordinator.algorithms.methods.pruning.fedtiny import fedtiny
from coordinator.algorithms.methods.pruning.prunefl import prunefl
from coordinator.algorithms.methods.pruning.sparsyfed import sparsyfed
from coordinator.algorithms.methods.released import (
    flash_released,
    flash_unfloored,
    hetero_flash_released,
    pdst_released,
)
from coordinator.algorithms.methods.salientgrads import (
    salientgrads,
    salientgrads_steps,
    ssfl,
)
from coordinator.algorithms.methods.scaffold import scaffold
from coordinator.algorithms.methods.zerofl import zerofl

__all__ = ["ALGORITHMS", "MAKERS"]

ALGORITHMS: dict[str, Algorithm] = {
    "fedavg": fedavg(),
    "pdst": pdst(),
    "erk": erk_frozen(),
    "equal-counts": equal_counts(),
    "equal-counts-scaled": equal_counts_scaled(),
    "flash": spdst(),
    "flash-scaled": flash_scaled(),
    "hetero-flash": hetero_flash(),
    "flash-edge": flash_edge(),
    "flash-learned": flash_trained("flash-learned", learned=True, warm=False),
    "flash-warm": flash_trained("flash-warm", learned=False, warm=True),
    "flash-lottery": flash_trained("flash-lottery", learned=True, warm=True),
    "flash-unfloored": flash_unfloored(),
    "flash-released": flash_released(),
    "hetero-flash-released": hetero_flash_released(),
    "pdst-released": pdst_released(),
    "nst": nst(),
    "jmwst": jmwst(),
    "jmwst-10": jmwst_every(10),
    "feddst": feddst(),
    "salientgrads": salientgrads(),
    "salientgrads-steps": salientgrads_steps(),
    "zerofl": zerofl(),
    "fedavgm": fedavgm(),
    "fedadam": fedadam(),
    "fedyogi": fedyogi(),
    "fedprox": fedprox(),
    "scaffold": scaffold(),
    "heterofl": heterofl(),
    "fjord": fjord(),
    "ssfl": ssfl(),
    "sparsyfed": sparsyfed(),
    "prunefl": prunefl(),
    "fedtiny": fedtiny(),
}

# Those with settings of their own: name -> what makes the algorithm of them.
MAKERS: dict[str, Callable[..., Algorithm]] = {
    "flash": spdst,
    "hetero-flash": hetero_flash,
    "flash-edge": flash_edge,
    "jmwst": jmwst,
    "feddst": feddst,
    "salientgrads": salientgrads,
    "zerofl": zerofl,
    "fedavgm": fedavgm,
    "fedadam": fedadam,
    "fedyogi": fedyogi,
    "fedprox": fedprox,
    "scaffold": scaffold,
    "sparsyfed": sparsyfed,
    "prunefl": prunefl,
    "fedtiny": fedtiny,
}
