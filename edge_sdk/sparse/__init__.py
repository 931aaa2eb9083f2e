"""The sparse vocabulary: masks, CSR tensors, densities, selection. numpy only."""

from edge_sdk.sparse.candidates import candidate_counts
from edge_sdk.sparse.csr import CsrTensor
from edge_sdk.sparse.density import (
    check_density,
    check_ladder,
    erk,
    erk_rescaled,
    exact_counts,
    nested_counts,
    uniform,
)
from edge_sdk.sparse.gain import unit_gains
from edge_sdk.sparse.mask import LayerShape, Mask
from edge_sdk.sparse.overall import largest_overall
from edge_sdk.sparse.regrow import regrow
from edge_sdk.sparse.select import draw, top_k
from edge_sdk.sparse.units import Boxes, Units, unit_boxes

__all__ = [
    "Boxes",
    "CsrTensor",
    "LayerShape",
    "Mask",
    "Units",
    "candidate_counts",
    "check_density",
    "check_ladder",
    "draw",
    "erk",
    "erk_rescaled",
    "exact_counts",
    "largest_overall",
    "nested_counts",
    "regrow",
    "top_k",
    "uniform",
    "unit_boxes",
    "unit_gains",
]
