"""Decides which layers the native sparse engine trains, and how: docs/engine.md."""

from edge_sdk.training.sparse.convert import densify, keep_activations, sparsify
from edge_sdk.training.sparse.model import SparseModel, sparse_model
from edge_sdk.training.sparse.modules import SparseConv2d, SparseLinear
from edge_sdk.training.sparse.policy import choose_engine

__all__ = [
    "SparseConv2d",
    "SparseLinear",
    "SparseModel",
    "choose_engine",
    "densify",
    "keep_activations",
    "sparse_model",
    "sparsify",
]
