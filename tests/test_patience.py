"""Time limits follow the machine: a busy one gets more, an idle one the plain limit."""

from __future__ import annotations

import ast
import re
import types
from collections.abc import Iterator
from pathlib import Path

import patience
import pytest
import pytest_timeout


def test_an_idle_machine_waits_as_written_and_a_busy_or_slow_one_longer() -> None:
    assert patience.slowness(0.5, 0.1) == 1.0
    assert patience.slowness(1.0, 10.0) == 10.0  # ten programs a core
    assert patience.slowness(3.0, 0.2) == 3.0
    assert patience.slowness(1e9, 1e9) == patience.MOST
    assert patience.patience(300) >= 300


def test_the_limit_of_a_test_is_scaled_before_its_timer_is_set(
    monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    ours = Path(__file__).with_name("conftest.py")
    (conftest,) = (
        plugin
        for plugin in request.config.pluginmanager.get_plugins()
        if getattr(plugin, "__file__", None) == str(ours)
    )
    seen = []
    monkeypatch.setattr(
        pytest_timeout,
        "pytest_timeout_set_timer",
        lambda item, settings: seen.append(settings.timeout),
    )
    monkeypatch.setattr(conftest, "patience", lambda seconds: 7 * seconds)
    given = types.SimpleNamespace(
        timeout=300, _replace=lambda timeout: types.SimpleNamespace(timeout=timeout)
    )
    conftest.pytest_timeout_set_timer(request.node, given)
    assert seen == [2100]


def test_what_takes_long_is_waited_for_and_what_never_comes_is_not_for_ever() -> None:
    looks = iter([False, False, True])
    assert patience.waited(lambda: next(looks), 60, look_s=0.0)
    assert not patience.waited(lambda: False, 0.0)
    late = iter([False, True])  # so while the limit passed
    assert patience.waited(lambda: next(late), -1.0)


WAITS = ("wait", "join", "acquire", "settimeout", "result")


def limits(path: Path) -> Iterator[tuple[int, ast.expr]]:
    """Every limit that a file of tests gives to a wait: its line, and what it is."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.BinOp) and "monotonic()" in ast.unparse(node):
            if isinstance(node.op, ast.Add):
                yield node.lineno, node.right
        elif isinstance(node, ast.Call):
            named = [k.value for k in node.keywords if k.arg == "timeout"]
            name = node.func.attr if isinstance(node.func, ast.Attribute) else ""
            yield from ((node.lineno, one) for one in named)
            if name in WAITS and len(node.args) == 1 and not node.keywords:
                yield node.lineno, node.args[0]


def is_plain(limit: ast.expr, scaled: set[str]) -> bool:
    """Whether a limit is a number of seconds that follows no machine."""
    if isinstance(limit, ast.Constant):
        return isinstance(limit.value, int | float) and limit.value >= 1
    return isinstance(limit, ast.Name) and limit.id.isupper() and limit.id not in scaled


def test_every_limit_of_a_wait_goes_through_patience() -> None:
    """A second or more; less is a pause between two looks, or waits for nothing."""
    found = []
    for path in sorted(Path(__file__).parent.rglob("*.py")):
        if "bench" in path.parts or path == Path(__file__):
            continue  # figures keep to no limit
        scaled = set(
            re.findall(r"^(\w+) = patience\(", path.read_text("utf-8"), re.MULTILINE)
        )
        found += [
            f"{path.name}:{line}: {ast.unparse(limit)}"
            for line, limit in limits(path)
            if is_plain(limit, scaled)
        ]
    assert found == []
