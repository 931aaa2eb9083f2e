"""Looks a device over and says what to mend: PASS, or a problem and its fix."""

from edge_sdk.doctor.check import Check, Patient, render
from edge_sdk.doctor.examine import examine

__all__ = ["Check", "Patient", "examine", "render"]
