"""Published settings by name: `paper` as resolved, `released` with the code's quirks.

Where FLASH's text and code disagree, the presets without `released` take exact counts,
water-filling, unit floors, a rate that falls over the run's own rounds, the mean by
examples, and logits into the cross entropy. `released` takes the code's masks, its
horizon of 1000 rounds whatever the run's and one round late, and on MNIST its softmax
before the cross entropy.
"""

from __future__ import annotations

from typing import Any

__all__ = ["PRESETS", "RELEASED"]

Raw = dict[str, Any]

# The papers' mean counts every update by its examples, in full.
_IN_FULL: Raw = {"clip": 0, "weight": 0, "influence": 0}
# FLASH, arXiv:2208.13092v1, Table 1 and section 5: 100 devices, 10 a round, one epoch,
# batch 32, plain SGD, 0.1 -> 0.001, warm-up of 10 devices x 10 epochs.
_FLASH: Raw = {
    "devices": 100,
    "cohort": 10,
    "densities": [0.05],
    "algorithm": "flash",
    "training": {"rate": 0.1, "rate_end": 0.001, "batch_size": 32},
    "warm_up": {"devices": 10, "epochs": 10},
    "codec": {"up": "fp32", "down": "fp32", "zstd": False},
    "gate": _IN_FULL,
}
# FEMNIST: 3,400 writers, 34 a round; `folder` is what `write_groups` writes.
_DATA: dict[str, Raw] = {
    "mnist": {"task": "mnist", "data": "mnist", "rounds": 400},
    "fashion": {"task": "fashion", "data": "fashion", "rounds": 400},
    "cifar10": {"task": "cifar10", "data": "cifar10", "rounds": 600},
    "femnist": {
        "task": "femnist",
        "folder": "femnist",
        "rounds": 1000,
        "cohort": 34,
        "warm_up": {"devices": 34, "epochs": 10},
    },
}
_RELEASED_TASK = {"mnist": "edge_sdk.zoo.tasks.mnist_released:task"}
# After round r the code sets 0.1 * exp(r / 1000 * ln .01): rounds 0 and 1 have .1.
_RELEASED: Raw = {"training": {**_FLASH["training"], "horizon": 1001, "lag": 1}}
# What draws its masks as the released code does, in place of ours.
RELEASED: dict[str, str] = {
    "flash": "flash-released",
    "hetero-flash": "hetero-flash-released",
    "pdst": "pdst-released",
}
# Ours, in FLASH's setting: 19 steps a round bear a higher rate than `init` writes.
_MOMENTUM: Raw = {"rate": 0.05, "rate_end": 0.0005, "momentum": 0.9, "batch_size": 32}
_OURS: Raw = {"algorithm": "flash-edge", "training": _MOMENTUM}
# Table 4: 40 / 30 / 30 % of the devices at .2 / .15 / .1.
_HETERO: Raw = {
    "algorithm": "hetero-flash",
    "densities": [0.1, 0.15, 0.2],
    "fleet": [
        {"share": 0.4, "density": 0.2},
        {"share": 0.3, "density": 0.15},
        {"share": 0.3, "density": 0.1},
    ],
}


def _flash() -> dict[str, Raw]:
    found: dict[str, Raw] = {}
    for name, data in _DATA.items():
        paper = {**_FLASH, **data}
        task = _RELEASED_TASK.get(name, data["task"])
        released = {**paper, **_RELEASED, "task": task, "algorithm": RELEASED["flash"]}
        unequal = {**released, **_HETERO, "algorithm": RELEASED["hetero-flash"]}
        found[f"flash-{name}"] = paper
        found[f"flash-{name}-released"] = released
        found[f"flash-{name}-hetero"] = {**paper, **_HETERO}
        found[f"flash-{name}-hetero-released"] = unequal
        found[f"flash-{name}-momentum"] = {**paper, "training": _MOMENTUM}
        found[f"ours-{name}"] = {**paper, **_OURS}
        found[f"ours-{name}-hetero"] = {**paper, **_HETERO, **_OURS}
    return found


# SalientGrads, arXiv:2304.07488, section 5 and Table 2: five sites, IID, 90 % sparse,
# batch 128, one minibatch a round. Two hundred epochs of 78 minibatches are ours: the
# paper names none. Its rate falls by ten at a half and at three quarters; ours falls
# over the same two tens evenly.
_SALIENT: Raw = {
    "task": "edge_sdk.zoo.tasks.cifar10:resnet20",
    "data": "cifar10",
    "devices": 5,
    "cohort": 5,
    "alpha": float("inf"),
    "densities": [0.1],
    "rounds": 15_600,
    "evaluate_every": 780,
    "algorithm": "salientgrads-steps",
    "training": {"rate": 0.1, "rate_end": 0.001, "batch_size": 128},
    "warm_up": {"devices": 5},
    "codec": _FLASH["codec"],
    "gate": _IN_FULL,
}
# Its released code is another algorithm: FedAvg on the mask, 100 clients, 10 a round,
# five epochs, Dirichlet 0.3, ResNet18 with group norm, rate 0.1 x 0.998 a round,
# gradients clipped at 10, all clients scored.
_SALIENT_RELEASED: Raw = {
    **_SALIENT,
    "task": "edge_sdk.zoo.tasks.cifar10:resnet18_group",
    "devices": 100,
    "cohort": 10,
    "alpha": 0.3,
    "rounds": 500,
    "evaluate_every": 1,
    "algorithm": "salientgrads",
    "training": {
        "rate": 0.1,
        "rate_end": round(0.1 * 0.998**499, 6),
        "batch_size": 16,
        "epochs": 5,
        "weight_decay": 5e-4,
        "clip": 10.0,
    },
    "warm_up": {"devices": 100},
}

PRESETS: dict[str, Raw] = {
    **_flash(),
    "salientgrads-cifar10": _SALIENT,
    "salientgrads-cifar10-released": _SALIENT_RELEASED,
    "digits": {
        **_FLASH,
        "task": "digits",
        "data": "digits",
        "devices": 20,
        "cohort": 5,
        "densities": [0.1],
        "rounds": 20,
        "training": {"rate": 0.2, "rate_end": 0.02, "batch_size": 8},
        "warm_up": {"devices": 3, "epochs": 3},
        "gate": {},  # as a federation counts
    },
}
