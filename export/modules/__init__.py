"""Decides what of a torch module is exported: its plain form, its mask, its inputs."""

from export.modules.from_module import from_module
from export.modules.named import load_module, load_weights

__all__ = ["from_module", "load_module", "load_weights"]
