"""A device's own values in a delivered model: its own head, and nothing else new."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from edge_sdk.checkpoint import Checkpoint, checkpoint_bytes, load_checkpoint
from edge_sdk.deploy.slots import install, look
from edge_sdk.errors import ExportError
from edge_sdk.infer import Bundle
from edge_sdk.infer.own import OWN, with_own
from edge_sdk.sparse import draw, exact_counts, uniform
from edge_sdk.tasks.layers import initial_state, layers_of, make_model
from edge_sdk.tasks.task import load_task
from export.bundle import make_bundle

TASK = load_task("digits")
HEAD = ("fc2.bias", "fc2.weight")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    layers = layers_of(make_model(TASK, 0), TASK.dense_layers)
    mask = draw(layers, exact_counts(uniform(layers), layers, 0.2), 1)
    state = initial_state(TASK, 1)
    values = {n: state.pop(n)[mask[n]] for n in mask}
    path = tmp_path_factory.mktemp("model") / "density-0.2.safetensors"
    whole = Checkpoint("digits", 3, layers, mask, values, state, {}, personal=HEAD)
    path.write_bytes(checkpoint_bytes(whole))
    return path


@pytest.fixture(scope="module")
def built(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("built") / "bundle"
    make_bundle(checkpoint, out, formats=("native",), seconds=0)
    return out


def own_head() -> dict[str, NDArray[Any]]:
    rng = np.random.default_rng(5)
    first = initial_state(TASK, 1)
    return {n: rng.normal(size=first[n].shape).astype(np.float32) for n in HEAD}


def test_a_checkpoint_names_what_is_personal(checkpoint: Path) -> None:
    assert load_checkpoint(checkpoint).personal == HEAD


def test_the_board_runs_its_own_head_in_the_delivered_model(
    checkpoint: Path, built: Path, tmp_path: Path
) -> None:
    def copied(folder: Path) -> None:
        folder.mkdir()
        for path in built.rglob("*"):
            if path.is_file():
                place = folder / path.relative_to(built)
                place.parent.mkdir(exist_ok=True)
                place.write_bytes(path.read_bytes())

    slot = install(tmp_path / "slots", copied, name="a bundle", own=own_head())
    live = Bundle(tmp_path / "slots" / slot)
    model = make_model(TASK, 0)
    state = {**load_checkpoint(checkpoint).state(), **own_head()}
    model.load_state_dict({n: torch.from_numpy(np.array(a)) for n, a in state.items()})
    batch = np.random.default_rng(2).normal(size=(4, 1, 8, 8)).astype(np.float32)
    with torch.no_grad():
        expected = model.eval()(torch.from_numpy(batch)).numpy()
    np.testing.assert_allclose(live.run(batch), expected, rtol=1e-4, atol=1e-4)
    live.check()  # the delivered file is what was signed, and is checked still
    assert not np.allclose(Bundle(built).run(batch), expected, atol=1e-2)
    # Without own values the next delivery is live as it was delivered.
    other = install(tmp_path / "slots", copied, name="a bundle")
    assert look(tmp_path / "slots").live == other
    assert (
        Bundle(tmp_path / "slots" / other).run(batch) == Bundle(built).run(batch)
    ).all()


def test_a_file_that_changes_more_than_own_values_is_refused(
    built: Path, tmp_path: Path
) -> None:
    content = (built / "model.native.flsp").read_bytes()
    mine = with_own(content, own_head())
    try:
        (built / OWN).write_bytes(mine)
        Bundle(built)
        at = next(
            i for i, b in enumerate(mine) if i > 128 and b and mine[i] == content[i]
        )
        (built / OWN).write_bytes(mine[:at] + bytes([mine[at] ^ 1]) + mine[at + 1 :])
        with pytest.raises(ExportError, match="is not the delivered model with"):
            Bundle(built)
    finally:
        (built / OWN).unlink()


@pytest.mark.parametrize(
    "own",
    [{"conv1.weight": np.zeros(3)}, {"fc2.bias": np.zeros(3)}],
    ids=["folded", "shape"],
)
def test_a_model_without_a_place_for_it_says_so(
    built: Path, own: dict[str, NDArray[Any]]
) -> None:
    content = (built / "model.native.flsp").read_bytes()
    with pytest.raises(ExportError, match="has no place for this device's own"):
        with_own(content, own)
