"""What a program does when it ends."""

from __future__ import annotations

import subprocess
import sys

import pytest
from patience import patience

# Only a look for garbage finds it: it holds itself.
ENDS = """
import sys
class Garbage:
    def __init__(self):
        self.own = self
    def __del__(self):
        print("found")
garbage = Garbage()
if {early}:
    del garbage
    import gc
    gc.collect()
sys.argv = [{module!r}, "--help"]
from {module}.cli import main
main()
"""


@pytest.mark.parametrize("module", ["edge_sdk", "coordinator", "export"])
@pytest.mark.parametrize("early", [False, True])
def test_a_command_does_not_look_for_garbage_when_it_ends(
    module: str, *, early: bool
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", ENDS.format(module=module, early=early)],
        capture_output=True,
        text=True,
        check=False,
        timeout=patience(60),
    )
    assert done.returncode == 0, done.stderr
    assert "Usage" in done.stdout
    assert ("found" in done.stdout) is early
