"""Measures the passes of a batch through smaller networks, in passes of the own one.

    python tests/bench/bench_passes.py [--task mnist --task watch] [--engine program]

The own network has the ladder's top density; masks are by units, equal in all layers.
A row has a pass of each smaller network alone, then a whole step of the sandwich rule:
`merged` where each network has a model of its own size, `own_width` where the own
network computes them with all other values at 0. Ways are interleaved, and a figure is
the median of their ratios to the own network's pass, in one thread's processor time.
Beside them are the activations of each network in MiB. Inputs are random numbers.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch

from coordinator.algorithms.unit_masks import by_units
from edge_sdk.program.model import ProgramModel
from edge_sdk.sparse import uniform
from edge_sdk.tasks.batch import tensors
from edge_sdk.tasks.graph.units import with_units
from edge_sdk.tasks.layers import layers_of, make_model
from edge_sdk.tasks.task import Examples, Task, load_task
from edge_sdk.training.engine import TrainingModel, TrainingSession
from edge_sdk.training.local import Backward, own_network
from edge_sdk.training.memory_limit import Allowance
from edge_sdk.training.rules.inner_network import InnerNetwork
from edge_sdk.training.rules.nested import sandwich
from edge_sdk.training.torch_engine.models import TorchModels
from edge_sdk.training.torch_engine.program import captured
from edge_sdk.wire.messages import Training
from edge_sdk.wire.values import Values

TASKS = ("mnist", "watch", "digits")
EXAMPLES, SEED = 256, 3
WARM, STEPS = 3, 6  # of each way, in each turn
PLAN = Training(epochs=1, batch_size=1, learning_rate=1e-4, momentum=0.9, seed=SEED)


def random_examples(task: Task) -> Examples:
    """Inputs of the task's shape: pixels where the task prepares them, else normal."""
    rng, shape = np.random.default_rng(SEED), (EXAMPLES, *task.input_shape)
    inputs: Any = rng.normal(size=shape).astype(np.float32)
    with torch.no_grad():
        classes = make_model(task, 0).eval()(torch.from_numpy(inputs[:1])).shape[1]
    if task.prepare is not None:
        inputs = rng.integers(0, 256, shape).astype(np.uint8)
    return Examples(inputs, rng.integers(0, classes, EXAMPLES))


def ratios(
    ways: Mapping[str, Backward], session: TrainingSession, index: Any, turns: int
) -> dict[str, float]:
    """Median ratio of each way's step to the step of `own`."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(turns):
        for name, way in ways.items():
            step = partial(_steps, way, session, index)
            step(WARM)
            began = time.process_time()
            step(STEPS)
            times[name].append(time.process_time() - began)
    own = np.array(times["own"])
    return {n: round(float(np.median(np.array(t) / own)), 2) for n, t in times.items()}


def _steps(way: Backward, session: TrainingSession, index: Any, count: int) -> None:
    for _ in range(count):
        way(session, 0, index)
        session.step()


def alone(member: InnerNetwork) -> Callable[[TrainingSession, int, Any], float]:
    """A batch through one smaller network."""
    return lambda session, _, index: member.backward(session, index)[0]


def row(name: str, given: argparse.Namespace) -> dict[str, Any]:
    """One task's model, its own network at the top of the ladder."""
    task = load_task(name)
    net, examples, batch = make_model(task, 0), random_examples(task), task.batch_size
    layers = with_units(net, layers_of(net, task.dense_layers))
    family = by_units(uniform(layers), layers, given.densities, SEED)
    (mask, *_), top = family.masks.values(), max(given.densities)
    models = TorchModels(task, given.engine, "fp32")
    if given.engine == "program":
        some = tensors(task, examples, slice(0, 8))
        models.program = captured(make_model(task, 0), task.loss, some)
    model = models.on(
        models.mask(family.recipe(mask), b""), examples, Allowance(), batch
    )
    state = {n: t.numpy() for n, t in net.state_dict().items()}
    start = Values(
        mask.digest,
        {n: state[n][mask[n]] for n in mask},
        {n: a for n, a in state.items() if n not in mask.layers},
    )
    model.load(start.masked, start.dense)
    session = model.session(task, examples, PLAN)
    smaller = {d: m for d, m in family.masks.items() if d < top}
    inside = models.inside(
        [(m, family.boxes.get(d, {})) for d, m in smaller.items()], examples
    )

    def members(own: Sequence[TrainingModel | None]) -> list[InnerNetwork]:
        pairs = zip(smaller.values(), own, strict=True)
        found = [InnerNetwork(m, mask, one) for m, one in pairs]
        for member in found:
            member.load(start)
        return found

    merged, wide = members(inside), members([None] * len(inside))
    ways: dict[str, Backward] = {
        "own": own_network,
        **{str(d): alone(m) for d, m in zip(smaller, merged, strict=True)},
        "merged": partial(sandwich, merged),
        "own_width": partial(sandwich, wide),
    }
    networks = [getattr(model, "inner", model), *inside]
    return {
        "task": name,
        "engine": model.engine,
        "batch": batch,
        **ratios(ways, session, np.arange(batch), given.turns),
        "activations_mib": [
            round(one.arena_bytes(batch) / 2**20, 2)
            for one in networks
            if isinstance(one, ProgramModel)
        ],
    }


def main() -> None:
    """Prints a row for each task."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--task", action="append", help="default: mnist, watch, digits")
    parser.add_argument("--engine", choices=["program", "masked"], default="program")
    parser.add_argument(
        "--densities", type=float, nargs="+", default=[0.2, 0.1, 0.05], metavar="D"
    )
    parser.add_argument("--turns", type=int, default=25)
    given = parser.parse_args()
    torch.set_num_threads(1)
    for name in given.task or TASKS:
        print(json.dumps(row(name, given)))


if __name__ == "__main__":
    main()
