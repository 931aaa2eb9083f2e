"""The shell blocks of the documents: each is run here, or says why not."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from types import ModuleType

import pytest
from patience import patience
from warm_python import WarmPython

ROOT = Path(__file__).parents[2]
MODULES = {
    "flash-edge": "edge_sdk",
    "flash-coordinator": "coordinator",
    "flash-export": "export",
}
MADE = shutil.ignore_patterns("data", "state", "cache", "run", "*.sqlite*", "*.onnx")
LIMIT_S = 580.0  # half a minute on idle cores, minutes on busy ones


def _beside(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, Path(__file__).parent / name)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look themselves up
    spec.loader.exec_module(module)
    return module


pages, shell = _beside("pages.py"), _beside("shell.py")
# A README of an example is run as a whole by tests/examples.
PAGES = {
    str(path.relative_to(ROOT)): list(pages.blocks_of(path.read_text("utf-8")))
    for path in shell.documents()
    if "examples" not in path.parts
}


@pytest.mark.parametrize("page", PAGES)
def test_every_shell_block_is_run_or_says_why_not(page: str) -> None:
    wrong = [
        f"{page}:{block.line}: {said}"
        for block in PAGES[page]
        if (said := pages.trouble(block)) is not None
    ]
    bare = shell.BLOCK.sub("", (ROOT / page).read_text("utf-8"))
    wrong += [f"{line}: no fence" for line in shell.INDENTED.findall(bare)]
    assert not wrong


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("```sh\nmake demo\n```", "no mark"),
        ("<!-- ci: run -->\nWords.\n```sh\nmake demo\n```", "no mark"),
        ("<!-- ci: not run: laziness -->\n```bash\nls\n```", "no reason"),
        ("<!-- ci: perhaps -->\n```console\nls\n```", "is none"),
        ("```\nflash-edge boards\n```", "says so"),
    ],
)
def test_a_block_without_a_mark_would_be_noticed(text: str, said: str) -> None:
    (block,) = pages.blocks_of(text)
    assert said in pages.trouble(block)


@pytest.fixture(scope="module")
def scripts() -> Iterator[Path]:
    """The three commands as an installation has them; see `warm_python`.

    A device's is of this Python: it counts its memory, imports included.
    """
    with (
        tempfile.TemporaryDirectory() as made,
        closing(WarmPython(Path(made))) as python,
    ):
        folder = Path(made) / "bin"
        folder.mkdir()
        for name, module in MODULES.items():
            own = sys.executable if name == "flash-edge" else python.program
            (folder / name).write_text(
                f"#!{own}\nfrom {module}.cli import main\n"
                "if __name__ == '__main__':\n    main()\n"
            )
            (folder / name).chmod(0o755)
        yield folder


def run_page(blocks: list[object], folder: Path, scripts: Path) -> tuple[int, str]:
    """A page's commands in a folder with the examples: exit code, and what was said."""
    logs = folder.with_name(folder.name + "-logs")
    logs.mkdir()
    shutil.copytree(ROOT / "examples", folder / "examples", ignore=MADE)
    (logs / "page.sh").write_text(pages.script_of(blocks, folder))
    path = f"{scripts}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    own = {"LOGS": str(logs), "PATH": path}
    with (logs / "said").open("wb") as said, (logs / "trace").open("wb") as trace:
        process = subprocess.Popen(
            ["bash", str(logs / "page.sh")],
            cwd=folder,
            env=os.environ | own | {"OMP_NUM_THREADS": "1"},
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=trace,
            start_new_session=True,
        )
        try:
            code = process.wait(patience(LIMIT_S))
        except subprocess.TimeoutExpired:
            code = 124
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
    return code, "\n".join(_tails(logs))


def _tails(logs: Path) -> Iterator[str]:
    for path in [*sorted(logs.glob("*.log")), logs / "said", logs / "trace"]:
        lines = path.read_text("utf-8", "replace").splitlines()[-25:]
        yield "\n".join([f"-- {path.name}", *lines])


@pytest.mark.broker
@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("page", [p for p in PAGES if pages.runs(PAGES[p])])
def test_the_commands_of_a_page_do_what_it_says_one_after_the_other(
    page: str, tmp_path: Path, scripts: Path
) -> None:
    folder = tmp_path / "page"
    folder.mkdir()
    code, said = run_page(PAGES[page], folder, scripts)
    assert code == 0, said


@pytest.mark.parametrize(
    "block",
    [
        "flash-coordinator status nowhere",
        # Beside the others, and found out at the end: it has ended by then.
        'flash-edge run nowhere.toml\nwhile kill -0 "${jobs[0]}"; do sleep 0.1; done',
        "python -c 'raise SystemExit(1)' | cat",
    ],
)
def test_a_command_that_fails_fails_its_page(
    block: str, tmp_path: Path, scripts: Path
) -> None:
    folder = tmp_path / "page"
    folder.mkdir()
    text = f"<!-- ci: run -->\n```sh\n{block}\n```\n"
    code, said = run_page(list(pages.blocks_of(text)), folder, scripts)
    assert code not in (0, 124), said
