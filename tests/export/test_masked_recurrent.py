"""Checkpoints whose masks act on more than plain layers are exported."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import export
from edge_sdk.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from edge_sdk.errors import ExportError
from edge_sdk.sparse import draw, erk, exact_counts
from edge_sdk.tasks.layers import initial_state, layers_of
from edge_sdk.tasks.task import load_task
from export.rebuild import from_checkpoint

TASKS = """
import numpy as np
from torch import nn
from torch.nn import functional
from edge_sdk.tasks import Examples, Task

class Gru(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn, self.out = nn.GRU(5, 16, batch_first=True), nn.Linear(16, 4)
    def forward(self, x):
        return self.out(self.rnn(x)[0][:, -1])

class Up(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Conv1d(5, 8, 3), nn.ConvTranspose1d(8, 4, 4, 2))
    def forward(self, x):
        return self.net(x.transpose(1, 2)).mean(2)

def normed(norm):
    return lambda: nn.Sequential(
        norm(nn.Conv1d(7, 8, 2, dilation=2)), nn.ReLU(), norm(nn.Conv1d(8, 8, 2)),
        norm(nn.ConvTranspose1d(8, 4, 2), dim=1), nn.Flatten(),
        norm(nn.Linear(12, 6), dim=None), nn.Linear(6, 4),
    )

def examples(folder):
    rng = np.random.default_rng(0)
    return Examples(rng.normal(size=(60, 7, 5)).astype(np.float32), np.arange(60) % 4)

def task(name, model, dense=()):
    return Task(name=name, model=model, loss=functional.cross_entropy,
                train_data=examples, eval_data=examples, input_shape=(7, 5),
                dense_layers=frozenset(dense))

gru, up = task("gru", Gru), task("up", Up)
bare = task("bare", Gru, ["out.weight"])
normed_now = task("normed_now", normed(nn.utils.parametrizations.weight_norm))
normed_before = task("normed_before", normed(nn.utils.weight_norm))
"""


@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
@pytest.mark.parametrize("name", ["gru", "up", "bare", "normed_now", "normed_before"])
def test_a_checkpoint_keeps_its_layers_and_gives_onnx_with_the_module_s_outputs(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`bare` masks nothing but recurrent weights, which ONNX merges and reorders.

    Of weight-normed layers the mask is the direction's, and the file has the weight.
    """
    (tmp_path / "flash_recurrent_task.py").write_text(TASKS)
    monkeypatch.syspath_prepend(tmp_path)
    reference = f"flash_recurrent_task:{name}"
    task = load_task(reference)
    layers, state = layers_of(task.model(), task.dense_layers), initial_state(task, 0)
    mask = draw(layers, exact_counts(erk(layers), layers, 0.4), 1)
    save_checkpoint(
        tmp_path / "model.ckpt",
        Checkpoint(
            task=reference, round_no=1, layers=layers, mask=mask,
            values={n: state[n][mask[n]] for n in mask},
            dense={n: a for n, a in state.items() if n not in mask.layers}, metrics={},
        ),
    )  # fmt: skip
    checkpoint = load_checkpoint(tmp_path / "model.ckpt")
    assert [s.name for s in checkpoint.layers] == list(mask)
    assert checkpoint.mask.digest == mask.digest
    built = export.build(checkpoint, format="onnx", out=tmp_path / "m.onnx")
    recurrent = {n for n in mask if n.startswith("rnn.")}
    assert set(built.left_out) == recurrent
    assert export.verify(tmp_path / "m.onnx", checkpoint).left_out == built.left_out
    source = from_checkpoint(checkpoint)
    assert len(source.mask) == len(mask)
    own = replace(checkpoint, personal=tuple(checkpoint.dense))
    if name.startswith("normed"):
        with pytest.raises(ExportError, match="is personal, and weight norm"):
            from_checkpoint(own)
    assert not any(p.requires_grad for p in source.model.parameters())
    for weight in source.mask:
        kept = np.array(source.mask[weight])
        own = source.model.get_parameter(weight).detach().numpy()
        assert not own[~kept].any()
        assert own[kept].all()
