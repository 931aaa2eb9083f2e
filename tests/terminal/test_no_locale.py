"""Without any locale nothing ends by an error of ours, and output is ASCII."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from edge_sdk.terminal import Exit
from edge_sdk.terminal.utf8 import in_ascii

ROOT = Path(__file__).parents[2]
NONE = {
    **{k: v for k, v in os.environ.items() if not k.startswith(("LC_", "LANG"))},
    "PYTHONUTF8": "0",
    "PYTHONCOERCECLOCALE": "0",
    "LC_ALL": "C",
}


def command(program: str, *words: str, cwd: Path) -> tuple[int, bytes, bytes]:
    run = [sys.executable, "-m", program, *words]
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        run, cwd=cwd, env={**NONE, "PYTHONPATH": path}, capture_output=True, check=False
    )
    return done.returncode, done.stdout, done.stderr


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A current folder with a name that ASCII has not."""
    found = tmp_path / "büro-東"
    found.mkdir()
    return found


RUN = "coordinator.cli"
INIT = (RUN, "init", "run", "--task", "digits", "--evaluation", "data")


def test_a_run_is_described_whole_and_read_again(folder: Path) -> None:
    code, out, err = command(*INIT, cwd=folder)
    assert code == 0, err
    assert out.isascii()
    text = (folder / "run/run.toml").read_text(encoding="utf-8")
    assert "momentum" in text  # its last line
    code, out, err = command(RUN, "doctor", "run", "--json", cwd=folder)
    assert code in (0, Exit.FOUND), err
    assert out.isascii()
    checks = {check["name"]: check for check in json.loads(out)}
    assert checks["settings"]["status"] == "PASS"
    assert "büro-東" in checks["task"]["detail"]  # where it looked for eval.npz


@pytest.mark.parametrize(
    "words",
    [
        (RUN, "status", "run"),
        (RUN, "devices", "run"),
        (RUN, "enroll", "run", "--new", "pi-1"),
        (RUN, "plan", "--task", "digits", "--board", "raspberry_pi_4b_4gb"),
        (RUN, "init", "other", "--task", "büro:task", "--evaluation", "dätä"),
        (RUN, "simulate", "sim", "--settings", "büro.toml"),
        ("edge_sdk.cli", "doctor"),
        ("edge_sdk.cli", "run", "büro.toml"),
        ("edge_sdk.cli", "boards"),
        ("export.cli", "build", "büro.ckpt"),
        ("export.cli", "--help"),
    ],
    ids=lambda words: " ".join(words[:2]),
)
def test_no_command_ends_as_a_bug_does(words: tuple[str, ...], folder: Path) -> None:
    (folder / "run").mkdir()
    (folder / "run" / "run.toml").write_text(
        'federation = "home"\ntask = "digits"\nevaluation = "data"\n'
        "densities = [0.5]\nrounds = 1\nwait_for = 1\n",
        encoding="utf-8",
    )
    code, out, err = command(*words, cwd=folder)
    assert code != Exit.BUG, err
    assert b"Traceback" not in err
    assert out.isascii()
    assert err.isascii()


EACH = """
import sys
sys.dont_write_bytecode = True
from importlib import import_module
from pathlib import Path
for line in Path(sys.argv[1]).read_bytes().decode("utf-8").splitlines():
    program, *words = line.split("|")
    sys.argv = [program, *words]
    try:
        code = import_module(program).main()
    except SystemExit as ended:
        code = ended.code
    for stream in sys.stdout, sys.stderr:
        stream.flush()
    print("ended", code or 0, *words[:1], file=sys.stderr, flush=True)
"""
REST: tuple[tuple[str, ...], ...] = (
    ("edge_sdk.cli", "profile", "büro.toml"),
    ("edge_sdk.cli", "profile", "gerät.toml"),
    ("edge_sdk.cli", "enroll", "FLASH-büro"),
    ("edge_sdk.cli", "enroll", "--token-file", "schlüssel"),
    ("edge_sdk.cli", "model", "status", "modelle-東"),
    ("edge_sdk.cli", "model", "switch", "modelle-東", "bündel"),
    ("edge_sdk.cli", "model", "rollback", "modelle-東"),
    ("edge_sdk.cli", "infer", "bündel", "--input", "dätä.npy"),
    ("edge_sdk.cli", "service", "show", "gerät.toml"),
    (RUN, "resume", "büro"),
    (RUN, "resume", "run"),
    (RUN, "rounds", "run"),
    (RUN, "rounds", "büro"),
    (RUN, "logs", "run"),
    (RUN, "logs", "büro"),
    (RUN, "report", "run"),
    (RUN, "revoke", "run", "gerät"),
    (RUN, "rotate", "büro"),
    (RUN, "deliver", "run", "bündel"),
    (RUN, "stop", "büro"),
    (RUN, "page", "büro", "--address"),
    (RUN, "track", "büro", "--to", "tensorboard"),
    (RUN, "plot", "bilder-東", "büro"),
    ("export.cli", "verify", "büro.onnx"),
    ("export.cli", "bundle", "büro.safetensors", "--out", "bündel"),
    ("export.cli", "bench", "bündel"),
)


def test_the_rest_of_the_commands_end_in_words_too(folder: Path) -> None:
    """In one process, as each would spend its seconds on the same imports."""
    (folder / "run").mkdir()
    (folder / "run" / "run.toml").write_text(
        'federation = "home"\ntask = "digits"\nevaluation = "dätä"\n'
        "densities = [0.5]\nrounds = 1\nwait_for = 1\n",
        encoding="utf-8",
    )
    (folder / "gerät.toml").write_text(
        'name = "pi-1"\nfederation = "home"\nbroker = "mqtt://127.0.0.1:1"\n'
        'task = "büro:task"\ndata = "dätä"\nstate = "zustand-東"\n'
        'models = "modelle-東"\n',
        encoding="utf-8",
    )
    (folder / "schlüssel").write_text("FLASH-東", encoding="utf-8")
    lines = "\n".join("|".join(words) for words in REST)
    (folder / "lines").write_text(lines, encoding="utf-8")
    (folder / "each.py").write_text(EACH, encoding="utf-8")
    code, out, err = command("each", "lines", cwd=folder)
    assert code == 0, err
    assert b"Traceback" not in err
    assert out.isascii()
    assert err.isascii()
    ended = [line.split() for line in err.decode().splitlines()]
    codes = [int(words[1]) for words in ended if words[:1] == ["ended"]]
    assert len(codes) == len(REST), err
    for words, one in zip(REST, codes, strict=True):
        assert one not in (Exit.BUG, Exit.USAGE), (words, err)


def test_json_in_ascii_means_the_same() -> None:
    text = json.dumps({"büro": "東\U0001f600\n"}, ensure_ascii=False)
    assert json.loads(in_ascii(text)) == json.loads(text)
    assert in_ascii(text).isascii()


def test_all_text_is_opened_with_an_encoding() -> None:
    """Ruff's PLW1514 is a preview; here it is asked for alone."""
    folders = ("edge_sdk", "coordinator", "export", "device_profiles")
    rule = ["--isolated", "--preview", "--select", "PLW1514"]
    run = [sys.executable, "-m", "ruff", "check", "--no-cache", *rule, *folders]
    done = subprocess.run(run, cwd=ROOT, capture_output=True, check=False)
    assert done.returncode == 0, done.stdout.decode()


def test_text_of_other_programs_is_read_with_an_encoding() -> None:
    for folder in ("edge_sdk", "coordinator", "export", "device_profiles"):
        for path in (ROOT / folder).rglob("*.py"):
            text = path.read_text(encoding="utf-8")
            assert "text=True" not in text, path
            assert "universal_newlines" not in text, path
