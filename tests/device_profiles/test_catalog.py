from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from device_profiles import Caps, ProfileError, boards, load_board, load_profile

NUMBERS = {
    "ram_mib",
    "cores",
    "simd",
    "train_gflops",
    "memory_gb_s",
    "step_overhead_ms",
    "uplink_mbit_s",
    "downlink_mbit_s",
    "rtt_ms",
    "disk_free_mib",
    "watts",
}


@pytest.mark.parametrize("name", boards())
def test_every_number_of_every_board_names_its_source(name: str) -> None:
    board = load_board(name)
    assert board.board == name
    assert set(board.provenance.notes) == NUMBERS
    for key, note in board.provenance.notes.items():
        kind, _, rest = note.partition(": ")
        assert kind in {"estimate", "datasheet", "measured by others"}, key
        assert rest, key


def test_the_promised_boards_are_there() -> None:
    promised = (
        "raspberry_pi_zero_2_w raspberry_pi_3b_plus raspberry_pi_4b_2gb "
        "raspberry_pi_4b_4gb raspberry_pi_4b_8gb raspberry_pi_5_4gb "
        "raspberry_pi_5_8gb jetson_nano jetson_xavier_nx jetson_orin_nano "
        "jetson_orin_nx jetson_agx_orin x86_small_box"
    )
    assert set(promised.split()) <= set(boards())


def test_a_misspelt_board_is_told_what_it_may_have_meant() -> None:
    with pytest.raises(ProfileError, match=r"did you mean .*raspberry_pi_4b_4gb"):
        load_board("raspberypi_4b_4gb")
    with pytest.raises(ProfileError) as caught:
        load_board("toaster")
    assert "did you mean" not in str(caught.value)
    assert "x86_small_box" in caught.value.help


def test_a_users_folder_adds_boards_and_wins_over_the_catalogue(tmp_path: Path) -> None:
    (tmp_path / "gateway.toml").write_text(
        'like = "raspberry_pi_4b_4gb"\nboard = "gateway"\n[caps]\ncpu_share = 0.4\n'
    )
    (tmp_path / "jetson_nano.toml").write_text(
        'like = "gateway"\nboard = "jetson_nano"\nram_mib = 99\n'
    )
    assert "gateway" in boards(tmp_path)
    gateway = load_board("gateway", folder=tmp_path)
    assert gateway.caps == Caps(cpu_share=0.4)
    assert gateway.train_gflops == load_board("raspberry_pi_4b_4gb").train_gflops
    mine = load_board("jetson_nano", folder=tmp_path)
    assert (mine.ram_mib, mine.caps.cpu_share) == (99, 0.4)
    assert load_board("jetson_nano").ram_mib > 99


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("ram_mib = ", "is not TOML"),
        ('like = "pi_9"\n', "pi_9"),
        ("like = 3\n", "like"),
        ('like = "mine"\n', "another board"),
        ('like = "jetson_nano"\nrams = 3\n', "unknown field `rams`"),
        ('like = "jetson_nano"\ncaps = 3\n', "caps"),
        ("ram_mib = 10\n", "missing required field"),
    ],
)
def test_a_file_that_cannot_be_is_refused(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(text)
    with pytest.raises(ProfileError, match=said):
        load_profile(file)


def test_two_files_that_are_like_each_other_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text('like = "b"\n')
    (tmp_path / "b.toml").write_text('like = "a"\n')
    with pytest.raises(ProfileError, match="not like this one"):
        load_board("a", folder=tmp_path)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ProfileError, match=r"nowhere\.toml: cannot be read"):
        load_profile(tmp_path / "nowhere.toml")


def test_profiles_are_read_without_torch() -> None:
    code = (
        "import sys, coordinator.densities, device_profiles as p;"
        "p.load_board('jetson_nano'); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
