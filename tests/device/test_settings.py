from __future__ import annotations

from pathlib import Path

import pytest

from edge_sdk.errors import SettingsError
from edge_sdk.settings import DeviceSettings, load_settings
from edge_sdk.toml_file import with_key

GOOD = """
name = "pi-1"
federation = "demo"
broker = "mqtt://localhost"
task = "digits"
data = "data"
state = "/var/lib/flash-edge"
profile = "pi-4b"
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "device.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_good_file_becomes_settings_with_paths_from_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written(tmp_path, GOOD)
    monkeypatch.chdir(tmp_path.parent)
    found = load_settings(Path(tmp_path.name) / "device.toml", DeviceSettings)
    assert found.data == tmp_path.resolve() / "data"
    assert found.state == Path("/var/lib/flash-edge")
    assert (found.engine, found.threads) == ("auto", 0)


def test_home_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    path = written(tmp_path, GOOD.replace('"data"', '"~/examples"'))
    assert load_settings(path, DeviceSettings).data == tmp_path / "examples"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("threads = 1", 'threads = "two"'), ["key threads", "Expected `int`, got"]),
        (("threads = 1", "threads = true"), ["key threads", "Expected `int`"]),
        (("threads = 1", "threads = -1"), ["key threads", ">= 0"]),
        (("threads = 1", "thread = 1"), ["unknown field `thread`"]),
        (('name = "pi-1"', ""), ["missing required field `name`"]),
        (
            ('name = "pi-1"', 'name = "Pi 1"'),
            ["key name", "small letters, digits and hyphens"],
        ),
        (
            ('name = "pi-1"', 'name = "pi-1\\n"'),
            ["key name", "small letters, digits and hyphens"],
        ),
        (("threads = 1", 'engine = "fast"'), ["key engine", "'fast'"]),
        (("threads = 1", 'consent = "two\\nlines"'), ["key consent", "of one line"]),
        (
            ("threads = 1", 'device = "gpu"'),
            ["key device", "auto, cpu, cuda or cuda:N"],
        ),
        (("threads = 1", 'consent = ""'), ["key consent"]),
        (('data = "data"', "data = 7"), ["key data", "Expected `Path`, got 7"]),
        (
            ('data = "data"', 'data = "~nobody-of-this-name/x"'),
            ["key data", "names no folder"],
        ),
        (('data = "data"', 'data = "a\\u0000b"'), ["key data"]),
        (('task = "digits"', "task = ["), ["not readable TOML", "line"]),
        (('task = "digits"', "task = 1\ntask = 2"), ["not readable TOML"]),
    ],
    ids=lambda value: value[-1] if isinstance(value, tuple) else "",
)
def test_a_wrong_file_names_file_key_and_expectation(
    tmp_path: Path, change: tuple[str, str], said: list[str]
) -> None:
    path = written(tmp_path, (GOOD + "threads = 1\n").replace(*change))
    with pytest.raises(SettingsError) as caught:
        load_settings(path, DeviceSettings)
    for part in [str(path), *said]:
        assert part in str(caught.value)
    assert caught.value.help


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="does not exist"):
        load_settings(tmp_path / "none.toml", DeviceSettings)
    with pytest.raises(SettingsError, match="Is a directory"):
        load_settings(tmp_path, DeviceSettings)
    binary = tmp_path / "binary.toml"
    binary.write_bytes(b'name = "\xff"')
    with pytest.raises(SettingsError, match="not readable TOML"):
        load_settings(binary, DeviceSettings)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ('name = "x"\nprofile = "a" # b\n', 'name = "x"\nprofile = "n w" # b\n'),
        ("profile='a'\n[caps]\n", 'profile="n w"\n[caps]\n'),
        ('name = "x"', 'name = "x"\nprofile = "n w"\n'),
        ('[t]\nprofile = "a"\n', 'profile = "n w"\n[t]\nprofile = "a"\n'),
        ('# profile = "a"\n', '# profile = "a"\nprofile = "n w"\n'),
    ],
)
def test_one_key_is_written_and_all_else_stays(before: str, after: str) -> None:
    assert with_key(before, "profile", "n w") == after


def test_a_key_that_cannot_be_changed_is_left_to_its_owner() -> None:
    with pytest.raises(SettingsError, match="key profile cannot be changed") as told:
        with_key('profile = """\na"""\n', "profile", "b")
    assert 'profile = "b"' in told.value.help
