"""Writes data/SPEAKER for every speaker, and data/evaluation."""

import os
from pathlib import Path

import numpy as np

from edge_sdk.datasets.groups import hold_out, some_groups, write_groups
from edge_sdk.datasets.readers import read_spoken_digits

here = Path(__file__).parent
cloned = here / "free-spoken-digit-dataset" / "recordings"
source = Path(os.environ.get("FLASH_EDGE_DATA", cloned))
if (source / "fsdd.npz").exists():
    source = source / "fsdd.npz"

train, held = hold_out(read_spoken_digits(source), 0.2, np.random.default_rng(1))
parts = some_groups(train.groups, 6, np.random.default_rng(1))
for name, folder in write_groups(here / "data", train, held, parts).items():
    print(f"{name}: {len(parts[name])} clips in {folder}")
