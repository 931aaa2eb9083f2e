"""Programs of the training kernels under the sanitizers: the driver, and the fuzzer."""

from __future__ import annotations

import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from compiled import compiled

from edge_sdk.kernels.build import SOURCES, find_compiler, this_machine

__all__ = ["checked_program"]

# With -g GCC follows variables for half as long again; -g1 names the lines. -Og and one
# region of registers: linear.cpp takes 14 s instead of 34, of 134 for all at -O1.
FLAGS = (
    *("-std=gnu++17", "-fopenmp", "-Og", "-g1", "-fira-region=one"),
    *("-fsanitize=address,undefined", "-fno-sanitize-recover=all"),
    *("-DFE_VECTOR_BYTES=16", f"-I{SOURCES}"),
    *(["-msse4.1"] if this_machine() == "x86_64" else []),
)


def checked_program(source: Path) -> Path:
    """A source and all kernels as one executable, compiled once per version.

    Args:
        source: With the headers beside it.
    """
    compiler, kernels = _compiler(), _checked_kernels()
    objects = sorted(kernels.glob("*.o"))

    def make(folder: Path) -> None:
        _compile([source, *objects, "-o", folder / source.stem])

    # The folder of the kernels is named by their version.
    made = compiled(
        f"checked-{source.stem}",
        make,
        compiler=compiler,
        flags=[*FLAGS, kernels.name],
        sources=[source, *source.parent.glob("*.h")],
    )
    return made / source.stem


def _checked_kernels() -> Path:
    """The folder of their objects."""

    def make(folder: Path) -> None:
        def one(source: Path) -> None:
            _compile(["-c", source, "-o", folder / f"{source.stem}.o"])

        with ThreadPoolExecutor(2) as pool:
            list(pool.map(one, sorted(SOURCES.glob("*.cpp"))))

    return compiled(
        "checked-kernels", make, compiler=_compiler(), flags=FLAGS, sources=[SOURCES]
    )


def _compiler() -> str:
    found = find_compiler(this_machine())
    assert found is not None
    return found


def _compile(call: list[str | Path]) -> None:
    line = [_compiler(), *FLAGS, *map(str, call)]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(line)} failed:\n{done.stderr[-3000:]}")
