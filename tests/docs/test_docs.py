"""What the documents promise: commands, links, names, bytes, a site that builds."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]


def _beside(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, Path(__file__).parent / name)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


shell, reference = _beside("shell.py"), _beside("reference.py")
DOCUMENTS = shell.documents()
NAMES = [str(path.relative_to(ROOT)) for path in DOCUMENTS]


@pytest.mark.parametrize("path", DOCUMENTS, ids=NAMES)
def test_every_command_shown_is_one_that_the_project_knows(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    wrong = [
        f"{line}: {said}"
        for line in shell.shown(text)
        if (said := shell.trouble(line, path.parent, shell.made(text))) is not None
    ]
    assert not wrong


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("flash-coordinator start x", "start is none of"),
        ("flash-edge run device.toml --untill-done", "no option --untill-done"),
        ("flash-coordinator revoke my-run pi-2 pi-3", "so many arguments"),
        ("make demos", "knows no demos"),
        ("pip install 'flash-edge[phones]'", "no extra phones"),
        ("python tests/bench/bench_nothing.py", "does not exist"),
        ("fl4sh", "none of the project's"),
    ],
)
def test_a_command_that_is_wrong_would_be_noticed(line: str, said: str) -> None:
    assert said in shell.trouble(line, ROOT)


def test_links_between_documents_lead_somewhere() -> None:
    dead = []
    for path in [*DOCUMENTS, ROOT / "ARCHITECTURE.md", ROOT / "CHANGELOG.md"]:
        text = re.sub(r"```.*?```", "", path.read_text(encoding="utf-8"), flags=re.S)
        dead += [
            f"{path.relative_to(ROOT)}: {target}"
            for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text)
            if not re.match(r"\w+:", target) and not (path.parent / target).exists()
        ]
    assert not dead


def test_every_public_name_is_documented() -> None:
    undocumented = []
    for name in reference.modules():
        module = importlib.import_module(name)
        undocumented += [] if module.__doc__ else [name]
        for public in getattr(module, "__all__", ()):
            found = getattr(module, public)
            if inspect.isclass(found) or inspect.isfunction(found):
                undocumented += [] if inspect.getdoc(found) else [f"{name}.{public}"]
    assert not undocumented
    for door in reference.PUBLIC:  # a room that moved takes its reference along
        assert any(n == door or n.startswith(f"{door}.") for n in reference.modules())


def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs")
    done = subprocess.run(
        [
            *(sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet"),
            *("--site-dir", str(tmp_path / "site")),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    site = tmp_path / "site"
    assert "nested_counts" in (
        site / "reference/edge_sdk.sparse.density/index.html"
    ).read_text(encoding="utf-8")
    golden = (site / "protocol-bytes/index.html").read_text(encoding="utf-8")
    for expected in ("TASK-ACK", "94 01 c4 5f 88 a4 74 79", 'id="install"'):
        assert expected in golden
    assert not list(_fetched_from_elsewhere(site))


# An <a> is followed by a person; everything else here is fetched without being asked.
FETCHES = re.compile(
    r"<(?!a[ >])\w+[^>]*\s(?:src|href|srcset|data|action)=[\"']?(?:https?:)?//[^\s>]*"
    r"|url\([\"']?(?:https?:)?//[^)]*|@import[^;]*//[^;]*"
    r"|<\w+ class=\"mermaid\"",  # the theme would ask another host for its program
)


def _fetched_from_elsewhere(site: Path) -> Iterator[str]:
    for path in sorted([*site.rglob("*.html"), *site.rglob("*.css")]):
        text = path.read_text(encoding="utf-8")
        yield from (f"{path.relative_to(site)}: {x}" for x in FETCHES.findall(text))


@pytest.mark.parametrize(
    "page",
    [
        '<link rel="preconnect" href="https://fonts.gstatic.com" crossorigin>',
        '<script src="//unpkg.com/mermaid"></script>',
        "<img alt=x src=https://img.shields.io/badge>",
        "<style>@import 'https://fonts.googleapis.com/css';</style>",
        "<p style=\"background: url('https://example.org/x.png')\">",
        '<pre class="mermaid"><code>graph TD',
    ],
)
def test_what_a_page_would_fetch_from_elsewhere_would_be_noticed(
    page: str, tmp_path: Path
) -> None:
    (tmp_path / "index.html").write_text(page)
    assert list(_fetched_from_elsewhere(tmp_path))
    (tmp_path / "index.html").write_text('<a href="https://example.org">there</a>')
    assert not list(_fetched_from_elsewhere(tmp_path))
