"""Profiles of boards: the schema, the catalogue of boards, the cost model."""

from device_profiles.budget import Choice, largest_density
from device_profiles.catalog import boards, load_board, load_profile
from device_profiles.cost import Cost, Engine, cost_of
from device_profiles.errors import ProfileError
from device_profiles.schema import Caps, DeviceProfile, Provenance, parse_profile
from device_profiles.workload import LayerLoad, NetworkPass, Workload

__all__ = [
    "Caps",
    "Choice",
    "Cost",
    "DeviceProfile",
    "Engine",
    "LayerLoad",
    "NetworkPass",
    "ProfileError",
    "Provenance",
    "Workload",
    "boards",
    "cost_of",
    "largest_density",
    "load_board",
    "load_profile",
    "parse_profile",
]
