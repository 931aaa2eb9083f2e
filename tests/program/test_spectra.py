"""Fourier transforms of a model, both ways, beside torch's own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from beside_torch import Case, loaded
from plain_models import Plain, classes, copies, error_of, error_on_more
from torch import nn

from edge_sdk.errors import EngineError
from edge_sdk.program.capture import capture, compiled
from edge_sdk.program.file import MOST_BYTES, pack_program
from edge_sdk.sparse import Mask

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


def half(z: torch.Tensor) -> torch.Tensor:
    return torch.fft.rfft(z)


MODELS: dict[str, Callable[[], Case]] = {
    "sizes": lambda: behind(lambda z: half(z).abs(), 15),
    "powers": lambda: behind(
        lambda z: torch.log(torch.fft.rfft(z, norm="ortho").abs() ** 2 + 1e-2), 15
    ),
    "of an odd length": lambda: behind(
        lambda z: torch.fft.rfft(z, norm="forward").abs(), 12, 7
    ),
    "parts": lambda: behind(lambda z: torch.view_as_real(torch.fft.rfft(z, dim=1)), 32),
    "imaginary part": lambda: behind(lambda z: torch.fft.fft(z).imag, 24),
    "mixed": lambda: behind(mixed, 24),
    "there and back": lambda: behind(
        lambda z: torch.fft.irfft(half(z) * z[:, :, :5]), 24
    ),
    "back to an odd length": lambda: behind(
        lambda z: torch.fft.irfft(half(z), n=7, norm="ortho"), 21
    ),
    "back to more": lambda: behind(
        lambda z: torch.fft.irfft(half(z), n=11, norm="forward"), 33
    ),
    "filled with zeros": lambda: behind(lambda z: torch.fft.rfft(z, n=12).abs(), 21),
    "cut": lambda: behind(lambda z: torch.fft.rfft(z, n=5).abs(), 9),
    "complex, back": lambda: behind(
        lambda z: torch.fft.ifft(torch.fft.fft(z) * torch.polar(z.abs(), z)).imag, 24
    ),
    "two axes": lambda: behind(
        lambda z: torch.fft.irfft2(torch.fft.rfft2(z) * 2, s=(3, 8)), 24
    ),
    "all two axes": lambda: behind(
        lambda z: torch.fft.ifft2(torch.fft.fft2(z) ** 2, dim=(1, 2)).real, 24
    ),
    "correlation": lambda: behind(
        lambda z: torch.fft.irfft(half(z) * half(z.flip(1)).conj()), 24
    ),
    "sizes and angles": lambda: behind(
        lambda z: torch.fft.irfft(torch.polar(half(z).abs(), half(z).angle() * 0.5)), 24
    ),
    "of one size": lambda: behind(
        lambda z: torch.fft.irfft(half(z) / (half(z).abs() + 0.1)), 24
    ),
    "turned": lambda: behind(
        lambda z: ((half(z) * 1j) - half(z) + z[:, :, :5]).real, 15
    ),
    "parts of pairs": lambda: behind(
        lambda z: torch.view_as_complex(z.reshape(-1, 3, 4, 2)).exp().abs(), 12
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_it_trains_as_torch_does(name: str) -> None:
    assert error_of(MODELS[name]) < 1e-4


def test_it_fits_more_examples_than_it_was_captured_on() -> None:
    assert error_on_more(MODELS["mixed"]) < 1e-4


def filtered() -> Case:
    """A global filter: weights of each frequency, held as pairs of real numbers."""

    def run(m: Any, x: torch.Tensor) -> torch.Tensor:
        seen = torch.fft.rfft2(m.body(x), norm="ortho")
        weight = torch.view_as_complex(m.weight)
        return torch.fft.irfft2(seen * weight, s=(4, 4), norm="ortho")

    weight = nn.Parameter(torch.randn(2, 4, 3, 2))
    body = nn.Conv2d(1, 2, 3, padding=1)
    x = torch.randn(7, 1, 4, 4)
    return Case(
        Plain(run, body=body, weight=weight), x, torch.randn(7, 2, 4, 4), nn.MSELoss()
    )


def operator() -> Case:
    """A Fourier neural operator's layer: its lowest frequencies mix channels."""

    def run(m: Any, x: torch.Tensor) -> torch.Tensor:
        seen = torch.fft.rfft(m.lift(x))[:, :, :3]
        found = torch.einsum("bix,iox->box", seen, torch.view_as_complex(m.weight))
        return m.lower(torch.fft.irfft(found, n=x.shape[-1]))

    layers = {"lift": nn.Conv1d(1, 2, 1), "lower": nn.Conv1d(3, 1, 1)}
    return copies(
        Plain(run, **layers, weight=nn.Parameter(torch.randn(2, 3, 3, 2))), 1, 12
    )


def rotary() -> Case:
    """Positions as turns of pairs, a constant table of complex numbers."""

    def run(m: Any, x: torch.Tensor) -> torch.Tensor:
        pairs = torch.view_as_complex(m.body(x).reshape(-1, 5, 2, 2, 2))
        table = torch.polar(torch.ones(5, 2), torch.outer(torch.arange(5.0), m.rates))
        turned = torch.view_as_real(pairs * table[:, None]).flatten(2)
        return m.head((turned @ turned.transpose(1, 2)).flatten(1))

    layers = {"body": nn.Linear(6, 8), "head": nn.Linear(25, 4)}
    return classes(Plain(run, **layers, rates=torch.tensor([1.0, 0.1])), 5, 6)


@pytest.mark.parametrize("make", [filtered, operator, rotary])
def test_what_people_build_of_them_trains_as_torch_does(make: Any) -> None:
    assert error_of(make) < 1e-4


def test_bits_do_not_depend_on_the_number_of_threads() -> None:
    torch.manual_seed(0)
    case, found = filtered(), []
    for threads in (1, 2, 4):
        model = loaded(case, Mask({}), threads=threads)
        model.backward(case.inputs.numpy(), case.targets.numpy())
        found.append(model.gradient_vector.tobytes())
    assert len(set(found)) == 1


def test_the_longest_transform_is_captured_and_a_longer_one_refused() -> None:
    for length, fits in ((1024, True), (1026, False)):
        case = behind(lambda z: half(z).abs(), 3 * (length // 2 + 1), length)
        call = case.model, case.loss, case.inputs, case.targets
        if fits:
            assert len(pack_program(capture(*call))) < MOST_BYTES
        else:
            with pytest.raises(EngineError, match="1026 values in 514 bins"):
                capture(*call)


REFUSED: dict[str, tuple[Of, str, int]] = {
    "along the batch": (lambda z: torch.fft.fft(z, dim=0).real, "along the batch", 24),
    "complex": (lambda z: half(z).tanh().real, "abs, real, imag or view_as_real", 15),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_place_is_refused_by_name(name: str) -> None:
    of, said, width = REFUSED[name]
    case = behind(of, width)
    with pytest.raises(EngineError, match=said):
        capture(case.model, case.loss, case.inputs, case.targets)


def test_complex_predictions_are_refused_by_name() -> None:
    def loss(out: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return (out.abs() - y).square().mean()

    model = Plain(lambda m, x: half(m.body(x)), body=nn.Linear(6, 8))
    with pytest.raises(EngineError, match="predictions are complex"):
        capture(model, loss, torch.randn(7, 6), torch.randn(7, 5))


def test_complex_parameters_are_refused_with_what_to_hold_instead() -> None:
    weight = nn.Parameter(torch.randn(5, dtype=torch.complex64))
    model = Plain(lambda m, x: torch.fft.irfft(half(x) * m.weight), weight=weight)
    case = copies(model, 8)
    told = compiled(model, case.loss, case.inputs, case.targets)
    assert "weight is complex" in told.reason
    with pytest.raises(EngineError) as caught:
        capture(model, case.loss, case.inputs, case.targets)
    assert "view_as_complex" in caught.value.help
