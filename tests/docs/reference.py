"""A hook of mkdocs: a page per public module, their list, and the golden bytes."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
PACKAGES = ("edge_sdk", "coordinator", "export", "device_profiles")
PUBLIC = (
    *("edge_sdk.agent", "edge_sdk.checkpoint", "edge_sdk.errors", "edge_sdk.infer"),
    *("edge_sdk.tasks", "edge_sdk.sparse", "edge_sdk.session", "edge_sdk.settings"),
    *("edge_sdk.training", "edge_sdk.transport", "edge_sdk.wire", "edge_sdk.identity"),
    *(
        "coordinator.algorithms.mean",
        "coordinator.algorithms.base",
        "coordinator.algorithms",
    ),
    *(
        "coordinator.densities",
        "coordinator.rounds.cohort",
        "coordinator.rounds.validation",
    ),
    *("coordinator.ledger", "coordinator.views.report", "coordinator.rounds.state"),
    *("coordinator.settings", "coordinator.simulation", "coordinator.views.track"),
    *("coordinator.algorithms.trimmed_mean", "device_profiles", "export"),
)


def modules() -> list[str]:
    """Every public module: of the packages above, what no underscore hides."""
    found = []
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            name = ".".join(parts).removesuffix(".__init__")
            inside = any(name == p or name.startswith(f"{p}.") for p in PUBLIC)
            hidden = any(part.startswith("_") for part in name.split("."))
            if inside and not hidden and not name.endswith("cli"):
                found.append(name)
    return found


def on_files(files: Any, config: Any) -> Any:
    """Adds the generated pages."""
    from mkdocs.structure.files import File

    for name in modules():
        page = (
            f"# `{name}`\n\n::: {name}\n    options:\n      show_root_heading: false\n"
        )
        files.append(File.generated(config, f"reference/{name}.md", content=page))
    sys.path.insert(0, str(Path(__file__).parent))
    from golden_bytes import render, sample

    bytes_page = render(sample())
    files.append(File.generated(config, "protocol-bytes.md", content=bytes_page))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Fills in the list of modules."""
    if page.file.src_uri != "reference/index.md":
        return markdown
    lines = [f"- [`{name}`]({name}.md)" for name in modules()]
    return markdown.replace("<!-- modules -->", "\n".join(lines))
