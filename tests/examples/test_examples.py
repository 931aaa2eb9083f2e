"""The examples as their READMEs say: the very commands, in a copy of the folder."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import onnxruntime
import pytest
from patience import patience

from edge_sdk.infer import NativeModel
from edge_sdk.tasks import load_task

EXAMPLES = Path(__file__).parents[2] / "examples"
MADE = shutil.ignore_patterns(
    *("data", "state", "cache", "run", "*.sqlite*", "*.onnx", "*.flsp"),
    *("classify", "input.f32"),
)
MODULES = {
    "flash-coordinator": "coordinator.cli",
    "flash-edge": "edge_sdk.cli",
    "flash-export": "export.cli",
}
# The recordings are their authors' to give: named by a variable, or laid beside us.
LAID = sorted(EXAMPLES.parents[1].glob("*/data/fsdd.npz"))
SPOKEN = Path(os.environ.get("FLASH_EDGE_DATA", "nowhere")) / "fsdd.npz"
if not SPOKEN.exists() and LAID:
    SPOKEN = LAID[0]


def commands(folder: Path) -> list[list[str]]:
    """Every command of the folder's README, in order, as processes of this Python."""
    blocks = re.findall(r"```sh\n(.*?)```", (folder / "README.md").read_text(), re.S)
    found = []
    for line in "".join(blocks).splitlines():
        words = shlex.split(line)
        if words[0] == "python":
            found.append([sys.executable, *words[1:]])
        elif words[0] in MODULES:
            found.append([sys.executable, "-m", MODULES[words[0]], *words[1:]])
        else:
            found.append(words)
    return found


def ran(
    name: str, tmp_path: Path, *, trained: Path | None = None, **variables: str
) -> tuple[Path, list[str]]:
    """A copy of the example after its README: the folder, and what each command said.

    Examples that use another's files find it beside them. A coordinator and its
    devices run side by side. With `trained`, a folder whose simulation is done, the
    same command goes on with that one instead of training again.
    """
    for path in sorted(EXAMPLES.iterdir()):
        shutil.copytree(path, tmp_path / path.name, ignore=MADE)
    folder = tmp_path / name
    if trained is not None:
        shutil.copytree(trained / "run", folder / "run")
    path = f"{Path(sys.executable).parent}:/usr/bin:/bin"
    environment = os.environ | {"PATH": path, "OMP_NUM_THREADS": "1"} | variables
    together: list[subprocess.Popen[bytes]] = []
    said = []
    try:
        for command in commands(folder):
            if command[2:4] in (["coordinator.cli", "run"], ["edge_sdk.cli", "run"]):
                together.append(
                    subprocess.Popen(
                        command, cwd=folder, stderr=subprocess.PIPE, env=environment
                    )
                )
                continue
            for process in [p for p in together if p.returncode is None]:
                _, error = process.communicate(timeout=patience(250))
                assert process.returncode == 0, error.decode()
            done = subprocess.run(
                *(command,),
                cwd=folder,
                capture_output=True,
                text=True,
                timeout=patience(250),
                check=False,
                env=environment,
            )
            assert done.returncode == 0, done.stderr
            said.append(done.stdout)
    finally:
        for process in together:
            process.kill()  # nothing of one that has ended
    return folder, said


@pytest.mark.broker
@pytest.mark.timeout(600)
def test_devices_and_coordinator_as_processes_of_their_own(tmp_path: Path) -> None:
    folder, _ = ran("01_three_terminals", tmp_path)
    (model,) = (folder / "federation" / "models").glob("*.onnx")
    assert onnxruntime.InferenceSession(model).get_inputs()
    assert "100 %" in (folder / "federation" / "report.html").read_text()


def test_your_own_model_is_what_the_tutorial_trains_and_its_page_is_run() -> None:
    """Half a minute of processor time; `tests/docs/test_commands.py` has it."""
    tutorial = (EXAMPLES.parent / "docs" / "tutorial.md").read_text()
    assert "cd examples/02_your_own_model\n" in tutorial
    text = (EXAMPLES / "02_your_own_model" / "README.md").read_text()
    blocks = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
    *runs, export = [line for block in blocks for line in block.splitlines()]
    assert len(runs) == 3
    assert all(f"\n{line}\n```" in tutorial for line in runs)
    model, data = export.split()[2], export.split()[-1]
    assert f"flash-export build {model.replace('federation', 'my-run')}" in tutorial
    assert (EXAMPLES / "02_your_own_model" / data).exists()


@pytest.mark.skipif(
    not SPOKEN.exists(),
    reason="needs fsdd.npz in FLASH_EDGE_DATA, or in a data folder beside the checkout",
)
def test_a_device_per_speaker(tmp_path: Path) -> None:
    folder, said = ran(
        "05_keywords_by_speaker", tmp_path, FLASH_EDGE_DATA=str(SPOKEN.parent)
    )
    assert said[0].count("clips in") == 6
    assert onnxruntime.InferenceSession(folder / "keywords.onnx").get_inputs()


def test_a_device_per_subject_learns(tmp_path: Path) -> None:
    folder, said = ran("06_motion_by_subject", tmp_path)
    assert said[0].count("windows in") == 10
    accuracy = float(re.search(r"accuracy ([\d.]+)", said[1])[1])
    assert accuracy > 2 / 7  # guessing gives 1 / 7
    assert onnxruntime.InferenceSession(folder / "motion.onnx").get_inputs()


@pytest.fixture(scope="module")
def cpp(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """The C++ example after its README; the phones' take the same short simulation."""
    return ran("07_cpp_program", tmp_path_factory.mktemp("cpp"))


def test_a_cpp_program_says_what_the_library_says(cpp: tuple[Path, list[str]]) -> None:
    folder, said = cpp
    example = np.fromfile(folder / "input.f32", np.float32).reshape(1, 1, 8, 8)
    outputs = NativeModel(folder / "digits.flsp").run(example)
    assert int(said[-1]) == outputs.argmax()


PHONES = {
    "08_android": ("kotlin", "*.kt*", "app/src/main/assets/digits.onnx"),
    "09_ios": ("swift", "*.swift", "Sources/Resources/digits.onnx"),
}


@pytest.mark.parametrize("name", PHONES)
def test_a_phones_sources_parse_and_fit_the_model_put_into_it(
    name: str, tmp_path: Path, cpp: tuple[Path, list[str]]
) -> None:
    """Names, shape and preparation in the source are those of the exported model."""
    language, pattern, model = PHONES[name]
    folder, _ = ran(name, tmp_path, trained=cpp[0])
    sources = {path.name: path.read_text() for path in folder.rglob(pattern)}
    assert len(sources) >= 3
    for file, text in sources.items():
        assert not _broken(language, text), f"{file} does not parse"

    session = onnxruntime.InferenceSession(folder / model)
    (given,), (out,) = session.get_inputs(), session.get_outputs()
    whole = "".join(sources.values())
    constants = dict(re.findall(r"(\w+)(?:: \w+)? = \"?([\w.]+?)f?\"?\n", whole))
    constants = {key.lower(): value for key, value in constants.items()}
    assert constants["input"] == given.name
    assert constants.get("output", out.name) == out.name
    assert given.shape == [1, 1, int(constants["side"]), int(constants["side"])]
    task = load_task("digits")
    import torch

    raw = torch.arange(64).reshape(1, 1, 8, 8) % 17
    ours = (raw.numpy() - float(constants["mean"])) / float(constants["deviation"])
    np.testing.assert_allclose(task.prepare(raw).numpy(), ours, rtol=1e-5, atol=1e-6)


KOTLIN = Path(__file__).parent / "kotlin"
COMPILER = KOTLIN / "node_modules" / "kotlin-compiler"


@pytest.mark.skipif(
    not COMPILER.exists() or shutil.which("java") is None,
    reason="needs Java and the Kotlin compiler (make tools)",
)
def test_the_android_app_compiles(tmp_path: Path) -> None:
    """Against stubs of what it uses of Android and onnxruntime: no SDK is here."""
    sources = EXAMPLES / "08_android" / "app" / "src" / "main" / "kotlin"
    done = subprocess.run(
        [
            *("java", "-cp", f"{COMPILER}/lib/*"),
            *("org.jetbrains.kotlin.cli.jvm.K2JVMCompiler", "-kotlin-home", COMPILER),
            *("-no-reflect", "-jvm-target", "17", "-Werror", "-d", tmp_path / "out"),
            *(KOTLIN / "onnxruntime.kt", *sorted((KOTLIN / "android").iterdir())),
            sources,
        ],
        capture_output=True,
        text=True,
        timeout=patience(250),
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "example" / "digits" / "DigitClassifier.class").exists()


def test_the_phones_projects_name_what_is_there() -> None:
    """One version of each tool, the same model, classes that the manifest starts."""
    android, ios = EXAMPLES / "08_android", EXAMPLES / "09_ios"
    main = android / "app" / "src" / "main"
    gradle = (android / "app" / "build.gradle.kts").read_text()
    (package,) = set(re.findall(r'(?:namespace|applicationId) = "(.+)"', gradle))
    levels = [
        int(x) for x in re.findall(r"(?:minSdk|targetSdk|compileSdk) = (\d+)", gradle)
    ]
    compiled, least, target = levels
    assert least <= target <= compiled
    plugins = re.findall(r'id\("(.+)"\)\n', gradle)
    assert plugins == re.findall(
        r'id\("(.+)"\) version', (android / "build.gradle.kts").read_text()
    )
    manifest = ElementTree.parse(main / "AndroidManifest.xml")  # noqa: S314 - our own
    name = "{http://schemas.android.com/apk/res/android}name"
    (activity,) = manifest.iter("activity")
    source = main / "kotlin" / package.replace(".", "/")
    assert (source / f"{activity.get(name).removeprefix('.')}.kt").exists()
    assert all(f"package {package}\n" in p.read_text() for p in source.glob("*.kt"))
    model = Path(PHONES["08_android"][2])
    assert f'assets.open("{model.name}")' in (source / "MainActivity.kt").read_text()
    assert model.parent.as_posix() == "app/src/main/assets"

    package_swift = (ios / "Package.swift").read_text()
    (path,) = re.findall(r'path: "(.+)"', package_swift)
    (resource,) = re.findall(r'\.copy\("(.+)"\)', package_swift)
    assert f"{path}/{resource}" == PHONES["09_ios"][2]
    stem, _, kind = Path(resource).name.partition(".")
    asked = f'forResource: "{stem}", ofType: "{kind}"'
    assert asked in (ios / path / "DigitClassifier.swift").read_text()


def _broken(language: str, text: str) -> bool:
    tree_sitter = pytest.importorskip("tree_sitter")
    grammar = pytest.importorskip(f"tree_sitter_{language}")
    parser = tree_sitter.Parser(tree_sitter.Language(grammar.language()))
    return parser.parse(text.encode()).root_node.has_error
