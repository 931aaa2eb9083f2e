"""Decides what of a device is to be mended: PASS, or a problem and its fix."""

from edge_sdk.device.doctor.check import (
    Check,
    DoctorTarget,
    Skipped,
    check_of,
    render,
)
from edge_sdk.device.doctor.examine import examine

__all__ = ["Check", "DoctorTarget", "Skipped", "check_of", "examine", "render"]
