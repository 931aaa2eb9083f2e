from __future__ import annotations

from device_profiles import LayerLoad, Workload
from device_profiles.step_time import step_terms


def one_layer(weights: int) -> Workload:
    """A million multiplications an example, by so many weights."""
    return Workload(
        layers=(LayerLoad("weight", weights, 1_000_000),),
        other_numel=10,
        activations=1000,
        input_bytes=100,
        examples=320,
        traffic_bytes=10_000,
        kernel_bytes=8_000,
    )


def test_a_weight_used_once_an_example_costs_the_sparse_engine_its_own_traffic() -> (
    None
):
    """A linear layer's; a convolution reuses each of its weights at every position."""
    conv = step_terms(one_layer(10_000), 0.5, "sparse")
    linear = step_terms(one_layer(1_000_000), 0.5, "sparse")
    assert linear.gflop == conv.gflop
    # Value and index forward; index, cursor, value, gradient backward; the optimizer.
    assert round(1e9 * (linear.gbyte - conv.gbyte)) == 495_000 * (28 + 20)


def test_what_the_masked_engine_costs_hardly_depends_on_density() -> None:
    low, high = (step_terms(one_layer(1_000_000), d, "masked") for d in (0.05, 0.5))
    assert low.gflop == high.gflop
    assert high.gbyte < 2 * low.gbyte
