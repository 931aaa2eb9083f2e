"""Settings from TOML: one frozen type per file, and errors that name file and key."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal, TypeVar, get_type_hints

import msgspec
from msgspec import Meta

from device_profiles import DeviceProfile, load_board, load_profile
from device_profiles.words import meant
from edge_sdk.broker_list import url_of_list
from edge_sdk.consent import ONE_LINE, Consent
from edge_sdk.errors import SettingsError
from edge_sdk.toml_file import load_toml

__all__ = [
    "DeviceSettings",
    "Name",
    "a_path",
    "as_arguments",
    "explained",
    "load_settings",
    "profile_of",
    "seen_from",
]

log = logging.getLogger(__name__)
FEW_KEYS = 20  # a table's; a whole file's are in docs/settings.md
# \Z, not $: the latter lets a trailing newline through.
_NAME = r"^[a-z0-9][a-z0-9-]{1,62}\Z"
_DEVICE = r"^(auto|cpu|cuda(:[0-9]{1,2})?)\Z"
_IN_WORDS = {
    _NAME: "of 2 to 63 small letters, digits and hyphens, no hyphen first",
    _DEVICE: "that is auto, cpu, cuda or cuda:N",
    ONE_LINE: "of one line, without control characters",
}
Name = Annotated[str, Meta(pattern=_NAME)]
T = TypeVar("T", bound=msgspec.Struct)


class DeviceSettings(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True
):
    """Settings of one device, from its TOML file.

    Attributes:
        name: The device's name in the federation.
        federation: The federation's name.
        broker: ``mqtt[s]://`` or ``ws[s]://[user:password@]host[:port]``, or a list.
        identity: Folder that `flash-edge enroll` wrote; needed for a broker elsewhere.
        broker_ca: PEM of whom to believe as the broker; the identity's if not given.
        broker_cert: Certificate to show to it; the identity's if not given.
        broker_key: Its key.
        task: A shipped task or ``package.module:object``.
        data: Folder with this device's private examples.
        state: Folder for the journal and the outbox; made if missing.
        profile: A board of the catalogue, or the path of a profile TOML.
        engine: ``program``, ``masked``, or ``auto`` to choose by a short race;
            ``sparse``, a name of 0.1.0, is read as ``program``.
        device: Where torch computes dense under masks: ``cpu``, ``cuda``, ``cuda:1``,
            or ``auto`` for a GPU where there is one. ``engine = "auto"`` races it
            against the program.
        autocast: Whether it computes matrix products in bfloat16 there.
        threads: Threads for training; 0 takes all cores.
        niceness: Of the whole agent, as `nice` counts; 0 where nothing else on the
            board comes first.
        micro_batch: Most examples that go through at once, 0 for the whole batch, or
            ``auto``: as many as fit under the profile's ``caps.ram_mib``.
        ghost_norm: Whether batch norm may take its statistics per micro-batch; without
            it a model with batch norm is refused where its batch has to be split.
        activations: ``bf16`` halves what a program keeps for the backward pass
            and rounds gradients to its 8 bits of mantissa.
        models: Folder of the two slots of delivered models; none refuses deliveries.
        models_key: Public key (PEM) of their signer; else as the coordinator says.
        health: Command that says by its exit code whether a new model is well.
        models_tolerance: How much a delivered model may be worse than the live one on
            this device's test examples, in the task's primary metric; none for no test.
        consent: What the people whose data it is have agreed to, in a line: shown with
            the device, signed with each update, and in proofs.
        broker_profile: Whose limits it has, as ``aws-iot``; by its host if not given.
        broker_user: User to connect to it as, unless the URL names one.
        broker_password_file: File with that user's password alone.
        proxy: ``http://`` or ``socks5://`` URL on the way to it; ``none`` for none.
        keep: Of data that grow: ``30 days``, ``9000 examples``, ``reservoir of 5000``.
        when: ``new-data`` sits rounds out in which there is nothing new to train on.
    """

    name: Name
    federation: Name
    broker: str
    task: str
    data: Path
    state: Path
    profile: str
    identity: Path | None = None
    broker_ca: Path | None = None
    broker_cert: Path | None = None
    broker_key: Path | None = None
    engine: Literal["auto", "program", "masked"] = "auto"
    device: Annotated[str, Meta(pattern=_DEVICE)] = "cpu"
    autocast: bool = False
    threads: Annotated[int, Meta(ge=0, le=1024)] = 0
    micro_batch: Annotated[int, Meta(ge=0)] | Literal["auto"] = "auto"
    ghost_norm: bool = False
    activations: Literal["fp32", "bf16"] = "fp32"
    models: Path | None = None
    models_key: Path | None = None
    health: str = ""
    broker_profile: str = ""
    broker_user: str = ""
    broker_password_file: Path | None = None
    proxy: str = ""
    keep: str = ""
    when: Literal["always", "new-data"] = "always"
    models_tolerance: Annotated[float, Meta(ge=0)] | None = None
    consent: Consent | None = None
    niceness: Annotated[int, Meta(ge=0, le=19)] = 10


def load_settings(path: Path, kind: type[T]) -> T:
    """The settings in a TOML file; relative paths count from the file's folder.

    A `rewritten` of the type gives keys of several forms their one form before.

    Raises:
        SettingsError: If the file is missing, is not TOML, has an unknown key, or a
            value of the wrong type; names the file, the key's path and the expectation.
    """
    raw = getattr(kind, "rewritten", dict)(load_toml(path))
    if isinstance(raw.get("broker"), list):
        raw["broker"] = url_of_list(raw["broker"], f"{path}: key broker")
    base = path.resolve().parent
    if kind is DeviceSettings and raw.get("engine") == "sparse":
        log.warning('%s: engine = "sparse" is now called "program"', path)
        raw["engine"] = "program"
    try:
        return msgspec.convert(raw, kind, dec_hook=lambda t, v: _decode(t, v, base))
    except msgspec.ValidationError as error:
        raise SettingsError(f"{path}: {explained(error, kind)}") from error


def a_path(given: object, what: str) -> Path:
    """A path in the file system, as a program's argument names it.

    Args:
        given: The argument's value.
        what: Its name.

    Raises:
        SettingsError: If it is no path.
    """
    if isinstance(given, str | os.PathLike) and "\0" not in os.fspath(given):
        return Path(given).expanduser()
    raise SettingsError(
        f"{what} is {given!r}, which is no path",
        remedy=f"Give {what} as a string or a pathlib.Path, or leave it out.",
    )


@contextmanager
def as_arguments(chapter: str) -> Iterator[None]:
    """Errors of settings that a program gave: the remedy names no file.

    Args:
        chapter: Of docs/settings.md, which has the keys.

    Raises:
        SettingsError: As in the block, with that remedy where it had none of its own.
    """
    try:
        yield
    except SettingsError as error:
        if error.help != SettingsError.remedy:
            raise
        remedy = f"Correct the argument; docs/settings.md, {chapter!r}, has all."
        raise SettingsError(str(error), remedy=remedy) from error


def seen_from(base: Path, path: str | Path) -> Path:
    """An absolute path: a relative one counts from a settings file's own folder.

    On a command line relative paths count from the current folder; a command that
    writes one into a settings file makes it absolute so, with this.

    Args:
        base: The folder it counts from.
        path: The path; ``~`` is the user's home.
    """
    return (base / Path(path).expanduser()).resolve()


def profile_of(reference: str, folder: Path) -> DeviceProfile:
    """The profile a setting names: a board, or a TOML file as seen from a folder.

    Raises:
        ProfileError: If there is none, or it holds something impossible.
    """
    if reference.endswith(".toml"):
        return load_profile(seen_from(folder, reference))
    return load_board(reference)


def _decode(kind: type, value: object, base: Path) -> object:
    if kind is Path and isinstance(value, str):
        try:
            return seen_from(base, value)
        except RuntimeError as error:  # ~ of a user that does not exist
            raise ValueError(f"{value!r} names no folder: {error}") from error
    # msgspec adds the key's path to a ValueError, not to its own ValidationError.
    raise ValueError(f"Expected `{kind.__name__}`, got {value!r}")


def explained(error: msgspec.ValidationError, kind: type[msgspec.Struct]) -> str:
    """Msgspec's message with its path written as TOML writes it, and the key meant.

    Args:
        error: What converting to the type raised.
        kind: The type of the whole file or of all arguments.
    """
    text = str(error)
    match = re.fullmatch(r"(?P<what>.*?)(?: - at `\$(?P<at>[^`]*)`)?", text, re.DOTALL)
    if match is None:
        return text
    at = (match["at"] or "").removeprefix(".").replace("[...]", "[]")
    what = match["what"]
    for pattern, words in _IN_WORDS.items():
        what = what.replace(f"matching regex {pattern!r}", words)
    unknown = re.search(r"unknown field `(.*)`", what)
    if unknown:
        known = _fields_at(kind, at)
        few = f"; known: {', '.join(known)}" if 0 < len(known) <= FEW_KEYS else ""
        what += meant(unknown[1], known) or few
    return f"key {at}: {what}" if at else what


def _fields_at(kind: type[msgspec.Struct], at: str) -> tuple[str, ...]:
    """The keys of a table of the file; none where the path leaves plain tables."""
    for name in filter(None, at.split(".")):
        inner = get_type_hints(kind).get(name)
        if not (isinstance(inner, type) and issubclass(inner, msgspec.Struct)):
            return ()
        kind = inner
    return kind.__struct_fields__
