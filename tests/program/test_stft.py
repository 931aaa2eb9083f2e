"""Transforms of windows (stft, istft) and what audio models make of them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from beside_torch import Case, loaded
from plain_models import Plain, classes, copies, error_of, error_on_more
from torch import nn

from edge_sdk.errors import EngineError
from edge_sdk.program.capture import capture
from edge_sdk.sparse import Mask

SIZE, HOP, LENGTH = 16, 6, 40
OPTIONS: dict[str, dict[str, Any]] = {
    "centred": {},
    "not centred": {"center": False},
    "bordered by zeros": {"pad_mode": "constant"},
    "bordered by the last": {"pad_mode": "replicate"},
    "normalized": {"normalized": True},
    "both sides": {"onesided": False},
    "a shorter window": {"win_length": 10},
    "an odd size": {"n_fft": 15},
}
WINDOWS = ("none", "constant", "buffer", "trained")


class Windowed(nn.Module):
    """A layer, its transform by windows, and a head."""

    def __init__(self, window: str, *, back: bool, **options: Any) -> None:
        super().__init__()
        self.size = options.pop("n_fft", SIZE)
        width = options.get("win_length", self.size)
        self.body, self.back, self.options = nn.Linear(LENGTH, LENGTH), back, options
        self.kind, self.width = window, width
        values = torch.hann_window(width) + 0.1
        if window == "buffer":
            self.register_buffer("window", values)
        elif window == "trained":
            self.window = nn.Parameter(values)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, LENGTH) -> sizes of its frames, or the row again."""
        window = None if self.kind == "none" else torch.hann_window(self.width) + 0.1
        if self.kind in {"buffer", "trained"}:
            window = self.window
        found = torch.stft(
            *(self.body(x), self.size, HOP),
            window=window,
            return_complex=True,
            **self.options,
        )
        if not self.back:
            return torch.log(found.abs().pow(2).mean(2) + 1e-2)
        options = {k: v for k, v in self.options.items() if k != "pad_mode"}
        weight = torch.linspace(0.5, 1.5, found.shape[1])[:, None]
        return torch.istft(
            *(found * weight, self.size, HOP), window=window, **options, length=36
        )


def there(window: str, **options: Any) -> Case:
    model = Windowed(window, back=False, **options)
    bins = model(torch.zeros(2, LENGTH)).shape[1]
    return classes(nn.Sequential(model, nn.Linear(bins, 4)), LENGTH)


def and_back(window: str, **options: Any) -> Case:
    return Case(
        Windowed(window, back=True, **options),
        *(torch.randn(7, LENGTH), torch.randn(7, 36)),
        nn.MSELoss(),
    )


@pytest.mark.filterwarnings("ignore:A window was not provided")
@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("options", OPTIONS)
def test_frames_train_as_torchs_do(options: str, window: str) -> None:
    assert error_of(lambda: there(window, **OPTIONS[options])) < 1e-4


@pytest.mark.filterwarnings("ignore:A window was not provided")
@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize(
    "options", ["centred", "normalized", "both sides", "a shorter window"]
)
def test_the_way_back_trains_as_torchs_does(options: str, window: str) -> None:
    assert error_of(lambda: and_back(window, **OPTIONS[options])) < 1e-4


def log_mel() -> Case:
    """Keywords: windows, powers, bands, logarithms, a network."""

    def run(m: Any, x: torch.Tensor) -> torch.Tensor:
        window = torch.hann_window(SIZE)
        seen = torch.stft(x, SIZE, HOP, window=window, return_complex=True)
        bands = torch.log(m.bands @ seen.abs().pow(2) + 1e-6)
        return m.head(m.conv(bands).relu().mean(2))

    layers = {"conv": nn.Conv1d(5, 6, 3), "head": nn.Linear(6, 4)}
    model = Plain(run, **layers)
    model.register_buffer("bands", torch.rand(5, SIZE // 2 + 1))
    return classes(model, 120)


def denoiser() -> Case:
    """A mask over frequencies, and the sound again; two channels at once."""

    def run(m: Any, x: torch.Tensor) -> torch.Tensor:
        window, size = torch.hann_window(SIZE), len(x)
        flat = x.reshape(-1, x.shape[-1])
        seen = torch.stft(flat, SIZE, HOP, window=window, return_complex=True)
        gain = torch.sigmoid(m.gain(seen.abs().transpose(1, 2))).transpose(1, 2)
        sound = torch.istft(seen * gain, SIZE, HOP, window=window, length=x.shape[-1])
        return sound.reshape(size, 2, -1)

    return copies(Plain(run, gain=nn.Linear(9, 9)), 2, 42)


@pytest.mark.parametrize("make", [log_mel, denoiser])
def test_audio_models_train_as_torchs_do(make: Any) -> None:
    assert error_of(make) < 1e-4
    assert error_on_more(make) < 1e-4


def test_bits_do_not_depend_on_the_number_of_threads() -> None:
    torch.manual_seed(0)
    case, found = and_back("trained"), []
    for threads in (1, 2, 4):
        model = loaded(case, Mask({}), threads=threads)
        model.backward(case.inputs.numpy(), case.targets.numpy())
        found.append(model.gradient_vector.tobytes())
    assert len(set(found)) == 1


def test_what_has_no_place_is_refused_by_name() -> None:
    model = Windowed("constant", back=False, n_fft=2048)
    model.body = nn.Linear(4096, 4096)
    case = classes(nn.Sequential(model, nn.Linear(1025, 4)), 4096)
    with pytest.raises(EngineError, match="2048 values in 1025 bins"):
        capture(case.model, case.loss, case.inputs, case.targets)
