"""The notebooks of `examples/notebooks` run from top to bottom, as a reader does."""

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "examples" / "notebooks").glob("*.ipynb"))


def code(notebook: Path) -> list[str]:
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    return ["".join(c["source"]) for c in cells if c["cell_type"] == "code"]


def run(cells: list[str], folder: Path) -> str:
    """What the cells print, in a fresh process of another folder."""
    (folder / "coordinator.py").write_text("raise SystemExit('the wrong module')\n")
    (folder / "export.py").write_text("raise SystemExit('the wrong module')\n")
    # The user's folder comes last on the path: two files there have names of ours.
    script = "import sys; sys.path.append(''); import matplotlib; matplotlib.use('Agg')"
    done = subprocess.run(
        [sys.executable, "-I", "-c", "\n".join([script, *cells])],
        cwd=folder, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_and_is_committed_without_outputs(
    notebook: Path, tmp_path: Path
) -> None:
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    assert not any(cell.get("outputs") for cell in cells)
    assert run(code(notebook), tmp_path)


def test_there_are_three() -> None:
    assert {n.stem for n in NOTEBOOKS} == {
        "ten_minutes",
        "your_csv",
        "compare_algorithms",
    }


def test_ten_lines_lead_from_import_to_an_exported_sparse_model() -> None:
    """The first cell, the README and the Python guide show the same ten lines."""
    first = code(ROOT / "examples" / "notebooks" / "ten_minutes.ipynb")[0]
    assert len(first.splitlines()) == 10
    assert len(ast.parse(first).body) == 10  # a statement each, none hidden by a `;`
    for page in ("README.md", "docs/guides/python.md"):
        text = (ROOT / page).read_text(encoding="utf-8")
        assert first in re.findall(r"```python\n(.*?)\n```", text, re.S), page
