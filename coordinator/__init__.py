"""Run a federation: rounds, aggregation, ledger, broker.

``coordinator.simulate`` trains a simulated fleet in one call. A
``coordinator.Federation`` runs a coordinator for real devices. ``coordinator.prove``
writes how its models were made, and ``coordinator.verify`` checks that.
``coordinator.flash()`` and its like return algorithms. A name is imported when it is
first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edge_sdk.own_packages import lazy_names

if TYPE_CHECKING:
    from coordinator.algorithms.base import Algorithm
    from coordinator.algorithms.load import load_algorithm
    from coordinator.algorithms.methods.equal_counts import equal_counts
    from coordinator.algorithms.methods.fedavgm import fedavgm
    from coordinator.algorithms.methods.feddst import feddst
    from coordinator.algorithms.methods.fedopt import fedadam, fedyogi
    from coordinator.algorithms.methods.fedprox import fedprox
    from coordinator.algorithms.methods.fixed_masks import erk_frozen, fedavg, pdst
    from coordinator.algorithms.methods.fjord import fjord
    from coordinator.algorithms.methods.flash import (
        flash_edge,
        flash_scaled,
        hetero_flash,
    )
    from coordinator.algorithms.methods.flash import spdst as flash
    from coordinator.algorithms.methods.heterofl import heterofl
    from coordinator.algorithms.methods.jmwst import jmwst
    from coordinator.algorithms.methods.nst import nst
    from coordinator.algorithms.methods.pruning.fedtiny import fedtiny
    from coordinator.algorithms.methods.pruning.prunefl import prunefl
    from coordinator.algorithms.methods.pruning.sparsyfed import sparsyfed
    from coordinator.algorithms.methods.salientgrads import salientgrads, ssfl
    from coordinator.algorithms.methods.scaffold import scaffold
    from coordinator.algorithms.methods.zerofl import zerofl
    from coordinator.operations.federation import Federation
    from coordinator.operations.federation_run import FederationRun
    from coordinator.operations.prove import prove
    from coordinator.operations.verify import verify
    from coordinator.settings import CodecSettings, TrainingSettings, WarmUpSettings
    from coordinator.simulation.api import simulate
    from coordinator.simulation.result import Run

__all__ = [
    "Algorithm",
    "CodecSettings",
    "Federation",
    "FederationRun",
    "Run",
    "TrainingSettings",
    "WarmUpSettings",
    "equal_counts",
    "erk_frozen",
    "fedadam",
    "fedavg",
    "fedavgm",
    "feddst",
    "fedprox",
    "fedtiny",
    "fedyogi",
    "fjord",
    "flash",
    "flash_edge",
    "flash_scaled",
    "hetero_flash",
    "heterofl",
    "jmwst",
    "load_algorithm",
    "nst",
    "pdst",
    "prove",
    "prunefl",
    "salientgrads",
    "scaffold",
    "simulate",
    "sparsyfed",
    "ssfl",
    "verify",
    "zerofl",
]

_HOMES = {
    "coordinator.algorithms.base": ("Algorithm",),
    "coordinator.algorithms.load": ("load_algorithm",),
    "coordinator.algorithms.methods.equal_counts": ("equal_counts",),
    "coordinator.algorithms.methods.fedopt": ("fedadam", "fedyogi"),
    "coordinator.algorithms.methods.fixed_masks": ("erk_frozen", "fedavg", "pdst"),
    "coordinator.algorithms.methods.flash": (
        "flash_edge",
        "flash_scaled",
        "hetero_flash",
    ),
    "coordinator.operations.federation": ("Federation",),
    "coordinator.operations.federation_run": ("FederationRun",),
    "coordinator.operations.prove": ("prove",),
    "coordinator.operations.verify": ("verify",),
    "coordinator.algorithms.methods.pruning.fedtiny": ("fedtiny",),
    "coordinator.algorithms.methods.pruning.prunefl": ("prunefl",),
    "coordinator.algorithms.methods.pruning.sparsyfed": ("sparsyfed",),
    "coordinator.algorithms.methods.salientgrads": ("salientgrads", "ssfl"),
    "coordinator.settings": ("CodecSettings", "TrainingSettings", "WarmUpSettings"),
    "coordinator.simulation.api": ("simulate",),
    "coordinator.simulation.result": ("Run",),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}
# An algorithm that is the only one of its file has the file's name.
__getattr__, __dir__ = lazy_names(
    __name__,
    {
        name: (
            _HOME.get(name, f"coordinator.algorithms.methods.{name}"),
            "spdst" if name == "flash" else name,
        )
        for name in __all__
    },
)
