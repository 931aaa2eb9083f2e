"""Files given as weights that are none: each is named, with what is wrong of it."""

import pickle  # noqa: TID251 - a file of other tools
from pathlib import Path

import pytest
import torch
from torch import nn

from edge_sdk.errors import ExportError
from export.modules.named import load_weights, read_examples


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("weights.pt", b"", "it is empty"),
        ("weights.pt", b"hello", r"torch cannot read it \(\w+: "),
        ("weights.pt", b"\x80\x02.", "weights"),
        ("weights.pkl", pickle.dumps({"weight": [1.0]}, 4), "weights"),
        ("weights.safetensors", b"", "it is empty"),
        ("weights.safetensors", b"\xff" * 40, "torch cannot read it|cannot be read"),
    ],
)
def test_a_file_that_holds_no_weights_is_named(
    tmp_path: Path, name: str, content: bytes, reason: str
) -> None:
    file = tmp_path / name
    file.write_bytes(content)
    with pytest.raises(ExportError, match=reason) as found:
        load_weights(nn.Linear(2, 2), file)
    assert str(file) in str(found.value)
    assert "torch.save(model.state_dict()" in str(found.value.help)


@pytest.mark.parametrize("content", [b"hello", b"\x93NUM", b"PK\x03\x04 no zip"])
def test_a_file_that_holds_no_examples_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "eval.npz").write_bytes(content)
    with pytest.raises(ExportError, match="holds no example inputs") as found:
        read_examples(tmp_path)
    assert str(tmp_path / "eval.npz") in str(found.value)
    assert "pickle" not in str(found.value)


def test_weights_of_a_data_parallel_module_are_taken(tmp_path: Path) -> None:
    model, other = nn.Linear(2, 2), nn.Linear(2, 2)
    spread = {f"module.{k}": v for k, v in other.state_dict().items()}
    torch.save(spread, tmp_path / "weights.pt")
    load_weights(model, tmp_path / "weights.pt")
    assert torch.equal(model.weight, other.weight)


def test_a_flipped_bit_in_a_file_of_weights_is_found(tmp_path: Path) -> None:
    """torch itself reads the file without its checksums."""
    model, file = nn.Linear(64, 32), tmp_path / "weights.pt"
    torch.save(model.state_dict(), file)
    content = bytearray(file.read_bytes())
    content[content.index(model.weight.detach().numpy().tobytes()) + 77] ^= 16
    file.write_bytes(content)
    assert not torch.equal(torch.load(file)["weight"], model.weight)
    with pytest.raises(ExportError, match=r"weights.pt is damaged: the checksum of"):
        load_weights(model, file)


def test_names_that_are_numbers_and_masks_that_do_not_fit_are_refused(
    tmp_path: Path,
) -> None:
    model, file = nn.Linear(6, 4), tmp_path / "weights.pt"
    torch.save({0: torch.ones(4, 6)}, file)
    with pytest.raises(ExportError, match="holds a dict of 0, no weights"):
        load_weights(model, file)
    state = model.state_dict()
    masked = {"weight_orig": state["weight"], "weight_mask": torch.ones(3)}
    torch.save({**masked, "bias": state["bias"]}, file)
    with pytest.raises(ExportError, match=r"weight_mask has shape \(3,\), the weight"):
        load_weights(model, file)
