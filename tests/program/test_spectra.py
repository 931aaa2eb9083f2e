"""Fourier transforms in a model: products with constants, beside torch's own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from beside_torch import Case
from plain_models import Plain, classes, error_of, error_on_more
from torch import nn

from edge_sdk.errors import EngineError
from edge_sdk.program.capture import capture
from edge_sdk.program.file import MOST_BYTES, pack_program

Of = Callable[[torch.Tensor], torch.Tensor]


def behind(of: Of, width: int, length: int = 8) -> Case:
    """A transform behind a layer, and a layer behind that."""

    def run(m: Any, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = m.head(of(m.body(x)).flatten(1))
        return found

    layers = {"body": nn.Linear(6, length), "head": nn.Linear(width, 4)}
    return classes(Plain(run, **layers), 3, 6)


def mixed(x: torch.Tensor) -> torch.Tensor:
    """Tokens and features mixed, as FNet does."""
    return torch.fft.fft(torch.fft.fft(x, dim=-1), dim=-2).real


MODELS: dict[str, Callable[[], Case]] = {
    "sizes": lambda: behind(lambda z: torch.fft.rfft(z).abs(), 15),
    "powers": lambda: behind(
        lambda z: torch.log(torch.fft.rfft(z, norm="ortho").abs() ** 2 + 1e-2), 15
    ),
    "of an odd length": lambda: behind(
        lambda z: torch.fft.rfft(z, norm="forward").abs(), 12, 7
    ),
    "parts": lambda: behind(lambda z: torch.view_as_real(torch.fft.rfft(z, dim=1)), 32),
    "imaginary part": lambda: behind(lambda z: torch.fft.fft(z).imag, 24),
    "mixed": lambda: behind(mixed, 24),
}


@pytest.mark.parametrize("name", MODELS)
def test_it_trains_as_torch_does(name: str) -> None:
    assert error_of(MODELS[name]) < 1e-4


def test_it_fits_more_examples_than_it_was_captured_on() -> None:
    assert error_on_more(MODELS["mixed"]) < 1e-4


def test_the_longest_transform_is_captured_and_a_longer_one_refused() -> None:
    for length, fits in ((1024, True), (1026, False)):
        case = behind(lambda z: torch.fft.rfft(z).abs(), 3 * (length // 2 + 1), length)
        call = case.model, case.loss, case.inputs, case.targets
        if fits:
            assert len(pack_program(capture(*call))) < MOST_BYTES
        else:
            with pytest.raises(EngineError, match="1026 values of 1026"):
                capture(*call)


REFUSED: dict[str, tuple[Of, str]] = {
    "along the batch": (lambda z: torch.fft.fft(z, dim=0).real, "along the batch"),
    "padded": (lambda z: torch.fft.rfft(z, n=16).abs(), "16 values of 8"),
    "complex": (lambda z: (torch.fft.rfft(z) * 2).abs(), "abs, real or imag"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_place_is_refused_by_name(name: str) -> None:
    of, said = REFUSED[name]
    case = behind(of, 27 if name == "padded" else 24 if "batch" in name else 15)
    with pytest.raises(EngineError, match=f"the model: .*{said}"):
        capture(case.model, case.loss, case.inputs, case.targets)
