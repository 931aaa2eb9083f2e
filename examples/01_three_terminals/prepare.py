"""Writes data/pi-1, data/pi-2 and data/evaluation: digits, non-IID."""

from pathlib import Path

from edge_sdk.datasets.prepare import prepare_folders

here = Path(__file__).parent
places = prepare_folders(
    "digits", here / "cache", here / "data", ["pi-1", "pi-2"], alpha=1.0, seed=1
)
for name, folder in places.items():
    print(f"{name}: {folder}")
