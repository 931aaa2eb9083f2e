"""Sensors of the board: temperature, throttling, power supply."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edge_sdk.device.probe.board import text_of

__all__ = ["Power", "Thermal", "hottest", "read_power", "read_thermal"]

# Raspberry Pi firmware: bits 0-3 are now, 16-19 since boot.
_NOW, _SINCE_BOOT = 0xF, 0xF0000
_VOLTAGE = 0x10001


@dataclass(frozen=True, slots=True)
class Thermal:
    """Readings of the temperature sensors; None where there is none.

    Attributes:
        celsius: The hottest sensor.
        throttled: Whether the clock is held down now.
        detail: In words.
    """

    celsius: float | None
    throttled: bool | None
    detail: str


@dataclass(frozen=True, slots=True)
class Power:
    """Power supply of the board; None where unknown, as without a battery.

    Attributes:
        on_battery: Whether it runs on battery now.
        percent: The battery's charge.
    """

    on_battery: bool
    percent: int | None


def read_thermal(root: Path = Path("/")) -> Thermal:
    """Temperature and throttling, from the kernel's files.

    Args:
        root: Where ``sys`` is, for a copied tree.
    """
    celsius = hottest(root)
    throttled, why = _throttled(root)
    heat = "no temperature sensor" if celsius is None else f"{celsius:.1f} C"
    return Thermal(celsius, throttled, f"{heat}, {why}")


def read_power(root: Path = Path("/")) -> Power:
    """Battery or mains; a board without a battery is on mains."""
    percent: int | None = None
    discharging = False
    for supply in _children(root / "sys/class/power_supply"):
        if _text(supply / "type") != "Battery" or _text(supply / "scope") == "Device":
            continue  # a mouse's battery is not the board's
        charge = _text(supply / "capacity")
        if charge.isdigit():
            percent = min(int(charge), 100 if percent is None else percent)
        discharging |= _text(supply / "status") == "Discharging"
    return Power(discharging, percent)


def hottest(root: Path = Path("/")) -> float | None:
    """Temperature of the hottest sensor in degrees Celsius; None without any."""
    found: list[float] = []
    for zone in _children(root / "sys/class/thermal"):
        text = _text(zone / "temp")
        if zone.name.startswith("thermal_zone") and text.lstrip("-").isdigit():
            found.append(int(text) / 1000)
    # A zone that is off says 0 or -273: no board trains in frost.
    return max((value for value in found if 1.0 < value < 150.0), default=None)


def _throttled(root: Path) -> tuple[bool | None, str]:
    firmware = _text(root / "sys/devices/platform/soc/soc:firmware/get_throttled")
    if firmware:
        try:
            bits = int(firmware, 16)
        except ValueError:
            return None, f"throttling unknown ({firmware!r})"
        return bool(bits & _NOW), _words(bits)
    counts = [
        _text(core / "thermal_throttle/core_throttle_count")
        for core in _children(root / "sys/devices/system/cpu")
    ]
    known = [int(count) for count in counts if count.isdigit()]
    if known:
        return None, f"throttled {max(known)} times since boot"
    return None, "throttling not reported here"


def _words(bits: int) -> str:
    if bits & _VOLTAGE:
        return "under-voltage: use a stronger power supply"
    if bits & _NOW:
        return "throttled now"
    return "throttled since boot" if bits & _SINCE_BOOT else "not throttled"


def _children(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []


def _text(path: Path) -> str:
    return text_of(path).strip("\0\n ")
