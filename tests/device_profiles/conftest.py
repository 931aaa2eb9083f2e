from __future__ import annotations

import pytest

from device_profiles import LayerLoad, Workload


@pytest.fixture(scope="session")
def mnistnet() -> Workload:
    """The demo's model: 261,840 parameters; the first and last layer stay dense."""
    return Workload(
        layers=(
            LayerLoad("conv1.weight", 250, 24 * 24 * 250, masked=False),
            LayerLoad("conv2.weight", 5_000, 18 * 18 * 5_000),
            LayerLoad("fc1.weight", 256_000, 256_000),
            LayerLoad("fc2.weight", 500, 500, masked=False),
        ),
        other_numel=90,
        # conv1, pool, ReLU, conv2, pool, ReLU, fc1, ReLU, fc2
        activations=5_760 + 2 * 4_840 + 6_480 + 2 * 5_120 + 2 * 50 + 10,
        input_bytes=784,
        examples=7_500,
    )
