"""Published settings by name: `paper` as resolved, `released-code` with its quirks."""

from __future__ import annotations

from typing import Any

__all__ = ["PRESETS"]

# FLASH, arXiv:2208.13092v1, Table 1 and section 5, MNIST: 100 devices of 600 examples,
# 10 a round, one epoch, batch 32, plain SGD, 0.1 -> 0.001 over 400 rounds, warm-up of
# 10 devices x 10 epochs. Where text and code disagree: exact counts, water-filling,
# unit floors, horizon T, mean by examples, logits into the cross entropy.
_FLASH: dict[str, Any] = {
    "devices": 100,
    "cohort": 10,
    "training": {"rate": 0.1, "rate_end": 0.001, "batch_size": 32},
    "warm_up": {"devices": 10, "epochs": 10},
    "codec": {"up": "fp32", "down": "fp32", "zstd": False},
}
_MNIST: dict[str, Any] = {
    **_FLASH,
    "task": "mnist",
    "data": "mnist",
    "densities": [0.05],
    "rounds": 400,
    "algorithm": "flash",
}

PRESETS: dict[str, dict[str, Any]] = {
    "flash-mnist": _MNIST,
    "flash-fashion": {**_MNIST, "task": "fashion", "data": "fashion"},
    # The released code's MNIST model ends in a softmax that its cross entropy applies
    # once more, and its learning rate falls over 1000 rounds whatever the horizon.
    "flash-mnist-released": {
        **_MNIST,
        "task": "edge_sdk.models.tasks.mnist_released:task",
        "training": {**_FLASH["training"], "horizon": 1000},
    },
    # Table 4: 40 / 30 / 30 % of the devices at .2 / .15 / .1.
    "flash-mnist-hetero": {
        **_MNIST,
        "algorithm": "hetero-flash",
        "densities": [0.1, 0.15, 0.2],
        "fleet": [
            {"share": 0.4, "density": 0.2},
            {"share": 0.3, "density": 0.15},
            {"share": 0.3, "density": 0.1},
        ],
    },
    "digits": {
        **_FLASH,
        "task": "digits",
        "data": "digits",
        "devices": 20,
        "cohort": 5,
        "densities": [0.1],
        "rounds": 20,
        "algorithm": "flash",
        "training": {"rate": 0.2, "rate_end": 0.02, "batch_size": 8},
        "warm_up": {"devices": 3, "epochs": 3},
    },
}
