"""Tasks that were written for 0.1.0 import what they imported then."""

from __future__ import annotations

import importlib

import pytest

OLD = {
    "edge_sdk.models": ["Examples", "Task", "load_task"],
    "edge_sdk.models.partition": ["load_partition", "save_partition"],
    "edge_sdk.models.zoo": ["FemnistCnn", "MnistNet", "ResNet18Cifar"],
}


@pytest.mark.parametrize("module", OLD)
def test_a_name_of_the_release_before_is_the_one_of_today(module: str) -> None:
    old = importlib.import_module(module)
    for name in OLD[module]:
        assert getattr(old, name).__module__.startswith("edge_sdk.")
        assert "models" not in getattr(old, name).__module__
