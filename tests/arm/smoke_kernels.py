"""Runs under the emulator: our wheel imports, its kernels agree with dense torch."""

from __future__ import annotations

import platform
import sys

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention

import edge_sdk.agent
import edge_sdk.cli
from edge_sdk.kernels.library import available, unavailable_reason
from edge_sdk.sparse import draw, exact_counts, uniform
from edge_sdk.tasks.layers import layers_of
from edge_sdk.training.masked import masked_model
from edge_sdk.training.torch_engine.program import captured, program_model
from edge_sdk.zoo import DigitsNet


def main() -> int:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print(platform.machine(), "torch", torch.__version__)
    print(edge_sdk.cli.__name__, edge_sdk.agent.__name__, "import")
    if available() is None:
        print(unavailable_reason())
        return 1
    model = DigitsNet()
    layers = layers_of(model, frozenset({"conv1.weight", "fc2.weight"}))
    mask = draw(layers, exact_counts(uniform(layers), layers, 0.2), 1)
    other = DigitsNet()
    other.load_state_dict(model.state_dict())
    inputs, targets = torch.randn(32, 1, 8, 8), torch.randint(0, 10, (32,))
    file = captured(model, F.cross_entropy, (inputs[:8], targets[:8]))
    sparse = program_model(model, mask, file, inputs, reason="smoke")
    masked = masked_model(other, mask).train()
    optimizer = torch.optim.SGD(masked.parameters(), lr=0.1)
    for _ in range(3):
        losses = [sparse.backward(inputs.numpy(), targets.numpy())]
        sparse.weight_vector -= 0.1 * sparse.gradient_vector
        optimizer.zero_grad()
        loss = F.cross_entropy(masked(inputs), targets)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
        print(available(), *losses)
        if abs(losses[0] - losses[1]) > 1e-4 * abs(losses[1]):
            return 1
    for name, values in sparse.values().items():
        off = abs(values - masked.values()[name]).max()
        print(name, off)
        if off > 1e-4:
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
