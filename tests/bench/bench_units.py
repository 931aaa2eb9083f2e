"""A weak device's step by units and by weights alone: time, activations, bytes.

    python tests/bench/bench_units.py [--density 0.05] [--top 0.2] [--engine program]

Both masks keep the same number of weights and nest in the same top mask. Activations
are what waits for the backward pass: the bytes of all tensors that autograd saves in
one step, parameters left out, each storage once. Each row is measured in a process of
its own: the memory of training is the peak resident size in the steps over what is
resident between two steps.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from torch import nn
from torch.autograd.graph import saved_tensors_hooks

from coordinator.algorithms.base import MaskFamily
from coordinator.algorithms.unit_masks import by_units
from edge_sdk.sparse import Mask
from edge_sdk.tasks.graph.units import with_units
from edge_sdk.tasks.layers import layers_of
from edge_sdk.training.engine import TrainingModel
from edge_sdk.training.masked import masked_model
from edge_sdk.training.torch_engine.narrow import narrowed
from edge_sdk.training.torch_engine.program import captured, program_model
from edge_sdk.wire.values import Values, pack_values
from edge_sdk.zoo import KeywordNet
from edge_sdk.zoo.resnet import ResNet20
from edge_sdk.zoo.small import DigitsNet, MnistNet

NETS: dict[str, tuple[type[nn.Module], tuple[int, ...], set[str]]] = {
    "DigitsNet": (DigitsNet, (1, 8, 8), {"conv1.weight", "fc2.weight"}),
    "MnistNet": (MnistNet, (1, 28, 28), {"conv1.weight", "fc2.weight"}),
    "KeywordNet": (KeywordNet, (1, 61, 40), {"conv1.weight", "fc.weight"}),
    "ResNet20": (ResNet20, (3, 32, 32), set()),
}
STEPS = 15
KINDS = ("weights", "units")


def activations(model: TrainingModel, inputs: torch.Tensor) -> int:
    """Bytes that wait for the backward pass of one step."""
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    found: dict[int, int] = {}

    def saved(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            found[storage.data_ptr()] = storage.nbytes()
        return tensor

    with saved_tensors_hooks(saved, lambda tensor: tensor):
        loss = F.cross_entropy(
            model(inputs), torch.zeros(len(inputs), dtype=torch.long)
        )
    total = sum(found.values())
    loss.backward()
    return total


def resident(field: str) -> int:
    """KiB of this process: VmRSS now, or VmHWM, the peak."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field))


def measured(model: TrainingModel, mask: Mask, inputs: torch.Tensor) -> dict[str, Any]:
    """Milliseconds of the fastest step, memory, activations and bytes of an update."""
    targets = torch.zeros(len(inputs), dtype=torch.long)

    def step() -> None:
        if model.engine == "program":
            inner.backward(inputs.numpy(), targets.numpy())
        else:
            F.cross_entropy(model(inputs), targets).backward()

    inner: Any = getattr(model, "_inner", model)
    step()  # loads what a step needs
    ctypes.CDLL(None).malloc_trim(0)
    before, times = resident("VmRSS"), []
    Path("/proc/self/clear_refs").write_text("5")  # the peak is that from now on
    for _ in range(STEPS):
        began = time.perf_counter()
        step()
        times.append(time.perf_counter() - began)
    peak = resident("VmHWM")
    change = Values(mask.digest, model.values(), model.dense())
    return {
        "step_ms": round(1e3 * min(times), 2),
        "training_kib": peak - before,
        "peak_rss_kib": peak,
        "activations_kib": round(
            (
                inner.arena_bytes(len(inputs))
                if model.engine == "program"
                else activations(model, inputs)
            )
            / 1024,
            1,
        ),
        "update_bytes": len(pack_values(change, mask)),
    }


def row(given: argparse.Namespace) -> dict[str, Any]:
    """One network under one kind of mask, in this process."""
    net, shape, dense = NETS[given.net]
    torch.set_num_threads(1)
    torch.manual_seed(1)
    layers = with_units(net(), layers_of(net(), frozenset(dense)))
    profile = np.array([1 / s.numel for s in layers])  # as FLASH's tend to
    family = by_units(profile, layers, (given.top, given.density), 1)
    if given.kind == "weights":
        family = MaskFamily.draw(layers, family.counts, 1)
    mask, boxes = family.masks[given.density], family.boxes.get(given.density, {})
    inputs = torch.randn(given.batch, *shape)
    targets = torch.zeros(given.batch, dtype=torch.long)

    def program(model: nn.Module, own: Mask) -> TrainingModel:
        return program_model(model, own, file, inputs, reason="measured")

    make: Any = masked_model
    if given.engine == "program":
        make = program
        file = captured(net(), F.cross_entropy, (inputs[:8], targets[:8]))
    return measured(narrowed(net(), mask, layers, boxes, inputs, make), mask, inputs)


def main() -> None:
    """Prints a row for each network; the ratio is units over weights alone."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--density", type=float, default=0.05)
    parser.add_argument("--top", type=float, default=0.2)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--engine", choices=["program", "masked"], default="program")
    parser.add_argument("--net", choices=[*NETS], help="this one alone")
    parser.add_argument("--kind", choices=KINDS, help="in this process")
    given = parser.parse_args()
    if given.net and given.kind:
        print(json.dumps(row(given)))
        return
    for net in [given.net] if given.net else NETS:
        rows = {}
        for kind in KINDS:
            line = [sys.executable, *sys.argv, "--net", net, "--kind", kind]
            rows[kind] = json.loads(subprocess.check_output(line))
        ratio = {
            key: round(rows["units"][key] / rows["weights"][key], 2)
            for key in rows["units"]
        }
        print(json.dumps({"net": net, "engine": given.engine, **rows, "ratio": ratio}))


if __name__ == "__main__":
    main()
