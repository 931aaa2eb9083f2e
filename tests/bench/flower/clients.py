"""Flower's clients: MNISTNet on a folder of examples each, or a no-op."""

from __future__ import annotations

import functools
import importlib.util
from pathlib import Path

import numpy as np
import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

NETWORK = Path(__file__).parents[3] / "edge_sdk" / "models" / "zoo" / "small.py"


def network() -> torch.nn.Module:
    """Our MNISTNet."""
    spec = importlib.util.spec_from_file_location("small", NETWORK)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.MnistNet()


@functools.cache
def examples(folder: str) -> tuple[torch.Tensor, torch.Tensor]:
    """One client's, prepared once for all rounds."""
    with np.load(Path(folder) / "train.npz") as arrays:
        inputs = torch.from_numpy(arrays["inputs"]).to(torch.float32)
        targets = torch.from_numpy(arrays["targets"])
    return ((inputs / 255.0 - 0.1307) / 0.3081).reshape(-1, 1, 28, 28), targets


def train_one(folder: str, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """One epoch of plain SGD, batch 32."""
    torch.set_num_threads(1)
    model = network()
    model.load_state_dict(state)
    inputs, targets = examples(folder)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for index in torch.randperm(len(targets)).split(32):
        optimizer.zero_grad(set_to_none=True)
        out = model(inputs[index])
        torch.nn.functional.cross_entropy(out, targets[index]).backward()
        optimizer.step()
    return model.state_dict()


def client_app(folders: list[str], *, noop: bool) -> ClientApp:
    """Clients that train, or give back what they got."""
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        place = int(context.node_config["partition-id"])
        arrays = message.content["arrays"]
        if not noop:
            state = train_one(folders[place], arrays.to_torch_state_dict())
            arrays = ArrayRecord(state)
        metrics = MetricRecord({"num-examples": 600})
        content = RecordDict({"arrays": arrays, "metrics": metrics})
        return Message(content=content, reply_to=message)

    return app
