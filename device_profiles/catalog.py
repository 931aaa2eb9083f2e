"""Finds profiles: the shipped catalogue of boards, a user's folder, a single file."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any

import msgspec

from device_profiles.errors import ProfileError
from device_profiles.schema import DeviceProfile, parse_profile
from device_profiles.words import meant

__all__ = ["boards", "load_board", "load_profile"]


def boards(folder: Path | None = None) -> tuple[str, ...]:
    """Names of all known boards, sorted; a user's own folder adds to the shipped ones.

    Example:
        >>> "raspberry_pi_zero_2_w" in boards()
        True
    """
    own = {file.stem for file in folder.glob("*.toml")} if folder else set()
    return tuple(sorted(own | set(_shipped())))


def load_board(name: str, *, folder: Path | None = None) -> DeviceProfile:
    """The profile of a board by its name; a file in the user's folder wins.

    Args:
        name: As listed by `boards`.
        folder: The user's own folder of TOML files, one per board.

    Raises:
        ProfileError: The name is unknown (says which are close) or its file is wrong.

    Example:
        >>> load_board("raspberry_pi_zero_2_w").cores
        4
    """
    return _find(name, folder, seen=())


def load_profile(path: Path, *, folder: Path | None = None) -> DeviceProfile:
    """The profile in a TOML file.

    A file may say ``like = "raspberry_pi_4b_4gb"`` and then only what differs, in the
    top level and in ``[caps]``.

    Args:
        path: The file.
        folder: The user's own boards, for ``like``.

    Raises:
        ProfileError: It cannot be read, is not TOML, or holds something impossible.
    """
    return _read(path, folder, seen=())


def _find(name: str, folder: Path | None, *, seen: tuple[str, ...]) -> DeviceProfile:
    if folder is not None and (folder / f"{name}.toml").is_file():
        return _read(folder / f"{name}.toml", folder, seen=seen)
    if name in _shipped():
        return _shipped_profile(name)
    known = boards(folder)
    raise ProfileError(
        file=f"board {name!r}",
        expected=f"no board of this name is known{meant(name, known)}",
        remedy=f"Known boards: {', '.join(known)}.",
    )


def _read(path: Path, folder: Path | None, *, seen: tuple[str, ...]) -> DeviceProfile:
    file = str(path)
    try:
        raw = path.read_bytes()
    except OSError as error:
        said = f"cannot be read: {error.strerror}"
        raise ProfileError(file=file, expected=said) from error
    data = _decode(raw, file)
    like = data.pop("like", None)
    if like is None:
        return parse_profile(data, file=file)
    if not isinstance(like, str) or like in (path.stem, *seen):
        said = "expected the name of another board, that is not like this one"
        raise ProfileError(file=file, key="like", expected=said)
    base = msgspec.to_builtins(_find(like, folder, seen=(*seen, path.stem)))
    for table in ("caps", "provenance"):
        if isinstance(data.get(table), Mapping):
            data[table] = {**base[table], **data[table]}
    return parse_profile({**base, **data}, file=file)


def _decode(raw: bytes, file: str) -> dict[str, Any]:
    try:
        return msgspec.toml.decode(raw, type=dict[str, Any])
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ProfileError(file=file, expected=f"is not TOML: {error}") from error


@lru_cache(maxsize=1)
def _shipped() -> dict[str, bytes]:
    # importlib.resources finds them in a wheel, a zip and a checkout alike.
    folder = resources.files("device_profiles") / "boards"
    return {
        entry.name.removesuffix(".toml"): entry.read_bytes()
        for entry in folder.iterdir()
        if entry.name.endswith(".toml")
    }


@lru_cache(maxsize=64)
def _shipped_profile(name: str) -> DeviceProfile:
    file = f"boards/{name}.toml"
    return parse_profile(_decode(_shipped()[name], file), file=file)
