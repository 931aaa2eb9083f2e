"""Values that a forward pass changes in place, beside torch's own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from plain_models import Plain, classes, error_of, error_on_more
from torch import nn

from edge_sdk.errors import EngineError
from edge_sdk.program.capture import capture

Change = Callable[[torch.Tensor], torch.Tensor]
ROWS, WIDE = 4, 8


def bands(y: torch.Tensor) -> torch.Tensor:
    y[:, 1] = 0
    y[:, :, 2:5] = 0.5
    return y


def parts(y: torch.Tensor) -> torch.Tensor:
    y[:, 1:3] *= 2
    y[:, 0] = y[:, 3]
    y[:, 2, 1:4] -= y[:, 1, 1:4]
    return y


def steps(y: torch.Tensor) -> torch.Tensor:
    y[:, :, ::2] = 0
    y[:, 1::2] *= 3
    return y


def listed(y: torch.Tensor) -> torch.Tensor:
    y[:, :, [1, 5]] = 0
    y[:, [0, 2], [1, 3]] = 2.0
    return y


def masked(y: torch.Tensor) -> torch.Tensor:
    y[y > 0.5] = 0.5
    y[y.mean(2) < 0] = -1.0
    return y


def a_frame(y: torch.Tensor) -> torch.Tensor:
    found = torch.zeros(len(y), ROWS, WIDE + 2)
    found[:, :, 1:-1] = y
    return found[:, :, :WIDE]


def by_rows(y: torch.Tensor) -> torch.Tensor:
    found = torch.empty_like(y)
    for row in range(ROWS):
        found[:, row] = y[:, row] * (row + 1)
    return found


def other_views(y: torch.Tensor) -> torch.Tensor:
    before, turned = y[:, 0], y.transpose(1, 2)
    turned[:, 2:4, 0] = 5.0
    turned.mul_(2)
    return y + before.unsqueeze(1)


def constants(y: torch.Tensor) -> torch.Tensor:
    weight = torch.ones(ROWS, WIDE)
    weight[1] = 0.5
    weight[:, 3:] += 1
    return y * weight


def whole(y: torch.Tensor) -> torch.Tensor:
    y += 1
    y.mul_(2).sub_(0.1)
    return F.relu_(y)


CHANGES: dict[str, Change] = {
    change.__name__: change
    for change in (
        *(bands, parts, steps, listed, masked, a_frame, by_rows, other_views),
        *(constants, whole),
    )
}


def case_of(change: Change) -> Any:
    def run(m: Any, x: torch.Tensor) -> torch.Tensor:
        y = (m.body(x) * 1).reshape(-1, ROWS, WIDE)
        return m.head(change(y).flatten(1))

    layers = {"body": nn.Linear(6, ROWS * WIDE), "head": nn.Linear(ROWS * WIDE, 4)}
    return classes(Plain(run, **layers), 6)


@pytest.mark.parametrize("name", CHANGES)
def test_it_trains_as_torch_does(name: str) -> None:
    assert error_of(lambda: case_of(CHANGES[name])) < 1e-4


def test_it_fits_more_examples_than_it_was_captured_on() -> None:
    assert error_on_more(lambda: case_of(bands)) < 1e-4


def several(y: torch.Tensor) -> torch.Tensor:
    y[:, :, [1, 5]] = y[:, :, :2].clone()
    return y


def test_several_values_for_listed_places_are_refused_by_name() -> None:
    case = case_of(several)
    with pytest.raises(EngineError, match=r"index_put.*plain_models.py:\d+") as caught:
        capture(case.model, case.loss, case.inputs, case.targets)
    assert "slices" in caught.value.help


def test_a_moving_buffer_is_refused_by_name() -> None:
    class Moving(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(6, 4)
            self.register_buffer("mean", torch.zeros(4))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.layer(x)
            self.mean.mul_(0.9).add_(y.mean(0).detach(), alpha=0.1)
            return y - self.mean

    case = classes(Moving(), 6)
    with pytest.raises(EngineError, match="changes a parameter or buffer") as caught:
        capture(case.model, case.loss, case.inputs, case.targets)
    assert "BatchNorm" in caught.value.help
