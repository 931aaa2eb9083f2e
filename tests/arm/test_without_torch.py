"""A board without torch on an emulated Cortex-A53: a Pi Zero 2 W in a federation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from arm.real_round import Run, finish, real_round
from without_torch import LEFT_OUT

PRELUDE = "import sys; sys.path[:] = [p for p in sys.path if p != {0!r}] + [{1!r}]\n"


@pytest.fixture(scope="module")
def without(arm_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A prelude that takes the board's packages from a folder that has no torch."""
    bare = tmp_path_factory.mktemp("bare")
    for entry in (arm_folder / "site").iterdir():
        if not entry.name.lower().startswith(LEFT_OUT):
            (bare / entry.name).symlink_to(entry)
    return PRELUDE.format(str(arm_folder / "site"), str(bare))


@pytest.mark.slow
@pytest.mark.broker
@pytest.mark.timeout(560)
def test_a_board_without_torch_takes_part_in_a_real_round(
    on_arm: Run, without: str, tmp_path: Path
) -> None:
    said = real_round(
        on_arm,
        tmp_path,
        cpu="cortex-a53",
        device='profile = "raspberry_pi_zero_2_w"\n',
        start=without,
    )
    assert "kernels neon, without torch" in said, said[-2000:]
    assert "memory plan: " in said
    assert (tmp_path / "state/program.bin").stat().st_size > 100


STEPS = """
import hashlib, pathlib, sys
import numpy as np
from edge_sdk.kernels.library import available, kernels
from edge_sdk.program.ceiling import MemoryCeiling
from edge_sdk.program.open import open_program
from edge_sdk.sparse import Mask
assert available() == "neon", available()
assert "torch" not in sys.modules
folder = pathlib.Path(sys.argv[1])
for file in sorted(folder.glob("*.program")):
    given = np.load(file.with_suffix(".npz"))
    part = lambda head: {n[2:]: given[n] for n in given.files if n.startswith(head)}
    mask = Mask({n: a for n, a in part("m/").items()})
    bits = set()
    for threads in (1, 2, 4):
        model = open_program(file.read_bytes(), mask, threads=threads)
        model.load(part("v/"), part("d/"))
        loss = model.backward(given["x"], given["y"], draw=3)
        bits.add(hashlib.sha256(model.gradient_vector.tobytes()).hexdigest())
    assert len(bits) == 1, (file.name, "bits depend on threads")
    names = sorted(model.gradients)
    found = np.concatenate([model.gradients[n].ravel() for n in names])
    error = np.linalg.norm(found - given["g"]) / np.linalg.norm(given["g"])
    assert error < 1e-4, (file.name, error)
    assert abs(loss - float(given["l"])) < 1e-4 * abs(loss), file.name
    print(file.stem, f"{error:.1e}")
"""


@pytest.mark.slow
@pytest.mark.timeout(460)
def test_programs_of_every_family_give_the_gradients_of_the_host(
    on_arm: Run, without: str, tmp_path: Path
) -> None:
    """Each operation of the programs' own tests, on NEON beside this machine's."""
    from beside_torch import loaded, mask_of
    from fuzz.program_cases import cases

    from edge_sdk.program.capture import capture
    from edge_sdk.program.file import pack_program

    for name, case in cases().items():
        mask = mask_of(case.model, 0.6)
        model = loaded(case, mask)
        program = capture(case.model, case.loss, case.inputs, case.targets)
        before = model.values(), model.dense()
        x, y = case.inputs.numpy(), case.targets.numpy()
        loss = model.backward(x, y, draw=3)
        names = sorted(model.gradients)
        (tmp_path / f"{name}.program").write_bytes(pack_program(program))
        np.savez(
            tmp_path / f"{name}.npz", x=x, y=y, l=loss,
            g=np.concatenate([model.gradients[n].ravel() for n in names]),
            **{f"m/{n}": mask[n] for n in mask},
            **{f"v/{n}": a for n, a in before[0].items()},
            **{f"d/{n}": a for n, a in before[1].items()},
        )  # fmt: skip
    said = finish(on_arm("cortex-a53", ["-c", without + STEPS, str(tmp_path)]), 300)
    assert set(cases()) <= {line.split()[0] for line in said.splitlines() if line}
