"""Runs a module or source without the current folder; a script.

``python isolated.py MODULE ARGUMENTS...`` or ``python isolated.py -c SOURCE ...``

The flag -P does this from Python 3.11 on, but not in 3.10; -I drops PYTHONPATH and what
a user has installed for himself. The first entry of the path is this script's folder,
and it goes before anything is imported that is not part of the interpreter.
"""

import sys

__all__ = ["PACKAGES", "take"]

PACKAGES = ("edge_sdk", "device_profiles", "coordinator", "export")


def take(name: str, root: str) -> None:
    """Import a package from a folder, whatever the path has of its name."""
    from importlib.util import module_from_spec, spec_from_file_location  # noqa: PLC0415

    place = f"{root}/{name}"
    spec = spec_from_file_location(
        name, f"{place}/__init__.py", submodule_search_locations=[place]
    )
    if name not in sys.modules and spec is not None and spec.loader is not None:
        sys.modules[name] = module = module_from_spec(spec)
        spec.loader.exec_module(module)


def main() -> None:
    """Takes this script off the command line and becomes the program behind it."""
    if not getattr(sys.flags, "safe_path", False):  # there it is absent
        del sys.path[0]
    root = __file__.rsplit("/", 2)[0]
    if root not in sys.path:  # a source tree that is not installed
        sys.path.append(root)
    for name in PACKAGES:
        take(name, root)
    if sys.argv[1] == "-c":
        source = sys.argv[2]
        sys.argv[:3] = ["-c"]
        exec(compile(source, "<child>", "exec"), {"__name__": "__main__"})  # noqa: S102
        return
    import runpy  # noqa: PLC0415 - only now is the path what it shall be

    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
