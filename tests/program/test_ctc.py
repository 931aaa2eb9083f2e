"""CTC loss, written out frame by frame, beside torch's own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from beside_torch import Case, three_steps
from plain_models import N, Plain
from torch import nn

from edge_sdk.program.capture import compiled
from edge_sdk.program.capture.restated import WithoutChecks
from edge_sdk.sparse import Mask

FRAMES, LABELS, CLASSES = 9, 3, 5
Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def of_one_length(out: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    seen = out.log_softmax(-1).transpose(0, 1)
    return F.ctc_loss(seen, y, [FRAMES] * len(y), [LABELS] * len(y))


def padded(out: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    seen = out.log_softmax(-1).transpose(0, 1)
    frames = torch.full((out.shape[0],), out.shape[1], dtype=torch.long)
    found: torch.Tensor = nn.CTCLoss(zero_infinity=True)(
        seen, y, frames, (y > 0).sum(1)
    )
    return found


def in_one_row(out: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    seen = out.log_softmax(-1).transpose(0, 1)
    sizes = [torch.full((len(t),), t.shape[1]) for t in (out, y)]
    return F.ctc_loss(seen, y.flatten(), *sizes)


def of_a_mask(out: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    seen = out.log_softmax(-1).transpose(0, 1)
    frames = torch.full((out.shape[0],), out.shape[1], dtype=torch.long)
    return F.ctc_loss(seen, y[y > 0], frames, (y > 0).sum(1))


@pytest.mark.parametrize("loss", [of_one_length, padded, in_one_row, of_a_mask])
def test_a_model_trains_by_it_as_torch_does(loss: Loss) -> None:
    def run(m: Any, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = m.head(m.gru(x)[0])
        return found

    torch.manual_seed(0)
    labels = torch.randint(1, CLASSES, (N, LABELS))
    labels[0] = labels[0, 0]  # equal ones need a blank between them
    if loss in {padded, of_a_mask}:
        labels[1, -1] = 0
        labels[2, 1:] = 0
    if loss is of_a_mask:  # what counts need not be in front
        labels[3, 0] = labels[4, 1] = 0
    gru, head = nn.GRU(4, 6, batch_first=True), nn.Linear(6, CLASSES)
    model = Plain(run, gru=gru, head=head)
    case = Case(model, torch.randn(N, FRAMES, 4), labels, loss)
    told = compiled(case.model, case.loss, case.inputs, case.targets)
    assert told.file, told.reason
    assert three_steps(case, Mask({}), "momentum") < 1e-4


@pytest.mark.parametrize("never", [True, False])
@pytest.mark.parametrize("seed", range(4))
def test_what_is_written_out_is_torchs_loss_in_float64(
    seed: int, *, never: bool
) -> None:
    rng = torch.Generator().manual_seed(seed)
    labels, classes = 2 + seed, 4
    values = torch.randn(14, N, classes, generator=rng, dtype=torch.float64)
    values.requires_grad_(True)
    y = torch.randint(1, classes, (N, labels), generator=rng)
    frames = torch.randint(11, 15, (N,), generator=rng)
    sizes = torch.randint(1, labels + 1, (N,), generator=rng)
    if never:  # ten equal labels in twelve frames: no way leads there
        y, sizes[0], frames[0] = y.repeat(1, 10)[:, :10], 10, 12
        y[0] = 1
    found = []
    for written in (True, False):
        call = (values.log_softmax(-1), y, frames, sizes)
        options = {"zero_infinity": never}
        if written:
            with WithoutChecks():
                loss = F.ctc_loss(*call, **options)
        else:
            loss = F.ctc_loss(*call, **options)
        found.append((loss.detach(), torch.autograd.grad(loss, values)[0]))
    (ours, own), (theirs, wanted) = found
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    assert float((own - wanted).norm() / wanted.norm()) < 1e-6
