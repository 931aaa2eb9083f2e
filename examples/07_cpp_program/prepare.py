"""Writes two devices' digits, an evaluation set, and one digit as input.f32."""

from pathlib import Path

import torch

from edge_sdk import load_task
from edge_sdk.datasets.prepare import prepare_folders

here = Path.cwd()
folders = prepare_folders(
    "digits", here / "cache", here / "data", ["one", "two"], alpha=1.0, seed=1
)
task = load_task("digits")
examples = task.eval_data(folders["evaluation"])
prepared = task.prepare(torch.from_numpy(examples.inputs[:1])).numpy()
(here / "input.f32").write_bytes(prepared.tobytes())
print(f"input.f32 is a {examples.targets[0]}")
