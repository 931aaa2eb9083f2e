"""Container files: read as their tools read them, and their entry commands run."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from brokers import mosquitto
from patience import patience, waited

from edge_sdk.transport.address import Address

ROOT = Path(__file__).parents[2]
CONTAINERS = ROOT / "containers"
IMAGES = ("agent", "coordinator")
WRITTEN = {"agent": "/state", "coordinator": "/run-folder"}


def instructions(image: str) -> list[tuple[str, str]]:
    """(instruction, its arguments) of a Containerfile, continued lines joined."""
    text = (CONTAINERS / f"{image}.Containerfile").read_text(encoding="utf-8")
    text = re.sub(r"^#.*\n", "", text, flags=re.MULTILINE).replace("\\\n", " ")
    return [tuple(line.split(None, 1)) for line in text.splitlines() if line.strip()]  # type: ignore[misc]


def last(image: str, name: str) -> str:
    return [given for word, given in instructions(image) if word == name][-1]


def health(image: str) -> list[str]:
    found: list[str] = json.loads(last(image, "HEALTHCHECK").partition("CMD ")[2])
    return found


def entry(image: str) -> list[str]:
    """ENTRYPOINT and CMD of the last stage."""
    words: list[str] = json.loads(last(image, "ENTRYPOINT"))
    given = [more for word, more in instructions(image) if word == "CMD"]
    return words + (json.loads(given[-1]) if given else [])


@pytest.mark.parametrize("image", IMAGES)
def test_an_image_has_a_user_a_health_check_and_pinned_bases(image: str) -> None:
    found = instructions(image)
    known = {"FROM", "RUN", "COPY", "ENV", "USER", "WORKDIR", "VOLUME", "STOPSIGNAL"}
    assert {word for word, _ in found} <= known | {
        *("HEALTHCHECK", "ENTRYPOINT", "CMD", "EXPOSE"),
    }
    for base in (given.split()[0] for word, given in found if word == "FROM"):
        assert re.fullmatch(r"docker\.io/library/python:3\.\d+-slim-\w+", base)
    assert last(image, "USER").split(":")[0].isdigit()
    assert last(image, "USER").split(":")[0] != "0"
    after = [word for word, _ in found][::-1].index("USER")
    assert "RUN" not in [word for word, _ in found][len(found) - after :]
    assert last(image, "STOPSIGNAL") == "SIGTERM"
    assert WRITTEN[image] in json.loads(last(image, "VOLUME"))
    for word, given in found:
        if word == "COPY" and "--from" not in given:
            assert (ROOT / given.split()[0]).exists()
    extras = re.findall(r"/source(?:\[([\w,]+)\])?", str(found))
    wanted = {"agent": "srv", "coordinator": "coordinator,export,srv"}
    assert [one for one in extras if one] == [wanted[image]]


def test_an_image_is_built_from_the_source_alone() -> None:
    """Libraries that are built here may be of another processor than the image."""
    left_out = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert {".git", "**/.venv", "**/*.so", "**/__pycache__"} <= set(left_out)


def documents(name: str) -> list[dict[str, Any]]:
    text = (CONTAINERS / name).read_text(encoding="utf-8")
    return [one for one in yaml.safe_load_all(text) if one]


@pytest.mark.parametrize("name", ["compose.yaml", "balena.yaml"])
def test_services_run_read_only_without_rights_on_volumes_that_exist(name: str) -> None:
    (found,) = documents(name)
    for service in found["services"].values():
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["tmpfs"] == ["/tmp"]  # noqa: S108
        file = service["build"]["dockerfile"]
        assert (ROOT / file).exists()
        image = Path(file).name.partition(".")[0]
        mounted = [volume.split(":") for volume in service["volumes"]]
        assert WRITTEN[image] in [target for _, target, *_ in mounted]
        for source, *_ in mounted:
            assert source.startswith("./") or source in found["volumes"]


def test_the_manifest_is_one_locked_coordinator_with_its_volume_and_probes() -> None:
    found = {one["kind"]: one for one in documents("kubernetes.yaml")}
    assert set(found) == {"Service", "ConfigMap", "StatefulSet"}
    spec = found["StatefulSet"]["spec"]
    assert spec["replicas"] == 1
    pod = spec["template"]["spec"]
    labels = spec["template"]["metadata"]["labels"]
    assert labels == spec["selector"]["matchLabels"]
    assert labels == found["Service"]["spec"]["selector"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    user = str(pod["securityContext"]["runAsUser"])
    assert user == last("coordinator", "USER").split(":")[0]
    volumes = {one["name"] for one in pod["volumes"]}
    volumes |= {one["metadata"]["name"] for one in spec["volumeClaimTemplates"]}
    for container in (*pod["initContainers"], *pod["containers"]):
        assert container["securityContext"]["readOnlyRootFilesystem"] is True
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert {one["name"] for one in container["volumeMounts"]} <= volumes
    assert pod["terminationGracePeriodSeconds"] >= 30
    assert pod["automountServiceAccountToken"] is False
    (secret,) = [one["secret"] for one in pod["volumes"] if "secret" in one]
    assert not secret["defaultMode"] & 0o007  # and no value of it in the manifest
    (one,) = pod["containers"]
    assert {given["name"]: given["value"] for given in one["env"]} == {
        "FLASH_EDGE_BROKER_PASSWORD_FILE": "/secrets/password"
    }
    (claim,) = spec["volumeClaimTemplates"]
    assert claim["spec"]["accessModes"] == ["ReadWriteOnce"]
    for probe in ("startupProbe", "livenessProbe"):
        assert one[probe]["exec"]["command"] == health("coordinator")
    ports = {port["name"] for port in one["ports"]}
    assert ports == {port["name"] for port in found["Service"]["spec"]["ports"]}


def test_the_manifests_settings_are_settings(tmp_path: Path) -> None:
    from coordinator.settings import load_run

    (config,) = [d for d in documents("kubernetes.yaml") if d["kind"] == "ConfigMap"]
    (tmp_path / "run.toml").write_text(config["data"]["run.toml"], encoding="utf-8")
    assert load_run(tmp_path / "run.toml").broker_user == "coordinator"


# -- the entry commands, as the images run them ----------------------------------------


def unprivileged() -> list[str]:
    """A prefix that takes root's rights away; empty for an ordinary user."""
    if os.getuid():
        return []
    return ["setpriv", "--bounding-set=-all", "--inh-caps=-all", "--no-new-privs"]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Starts an image's entry command in a folder that cannot be written."""
    running: list[subprocess.Popen[bytes]] = []
    shut = tmp_path / "root"
    shut.mkdir()
    shut.chmod(0o555)

    def begin(image: str, places: dict[str, Path]) -> subprocess.Popen[bytes]:
        words = entry(image)
        for inside, outside in places.items():
            words = [word.replace(inside, str(outside)) for word in words]
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        home = str(places[WRITTEN[image]])
        own = {"PATH": path, "HOME": home, "OMP_NUM_THREADS": "1"}
        log = (tmp_path / f"{image}.log").open("ab")
        with log:
            running.append(
                subprocess.Popen(
                    [*unprivileged(), *words],
                    cwd=shut,
                    env={**os.environ, **own, "PYTHONDONTWRITEBYTECODE": "1"},
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                )
            )
        return running[-1]

    yield begin
    for process in running:
        process.kill()
        process.wait()


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Address]:
    """Not the coordinator's own: started as root, it would be given another user."""
    with mosquitto(tmp_path, "allow_anonymous true") as there:
        yield there


@pytest.mark.broker
def test_sigterm_ends_both_images_cleanly_with_the_round_durable(
    federation: Callable[..., Any],
    start: Callable[..., subprocess.Popen[bytes]],
    broker: Address,
    tmp_path: Path,
) -> None:
    fleet = federation(rounds=200)
    text = (fleet.run / "run.toml").read_text()
    text = text.replace("wait_for = 3", 'wait_for = 1\nalgorithm = "erk"')
    text = re.sub(r"port = \d+", f'broker = "{broker.url}"', text)
    (fleet.run / "run.toml").write_text(text)
    config, state = tmp_path / "config", tmp_path / "state"
    for folder in (config, state):
        folder.mkdir()
    own = (fleet.folder / "pi-1.toml").read_text()
    own = re.sub(r"mqtt://[^\"]+", broker.url, own)
    own = own.replace('"state-pi-1"', f'"{state}"').replace('"pi.toml"', '"pi-4b"')
    own = own.replace('profile = "pi-4b"', 'profile = "raspberry_pi_4b_4gb"')
    (config / "device.toml").write_text(own)
    config.chmod(0o500)  # a mount that cannot be written
    places = {"/run-folder": fleet.run, "/state": state, "/config": config}

    def well(image: str) -> bool:
        words = [word.replace("/run-folder", str(fleet.run)) for word in health(image)]
        words = [word.replace("/state", str(state)) for word in words]
        return subprocess.run(words, check=False, capture_output=True).returncode == 0

    assert not well("coordinator")
    both = {image: start(image, places) for image in ("coordinator", "agent")}

    def logs() -> str:
        return "\n".join(p.read_text()[-3000:] for p in tmp_path.glob("*.log"))

    def trains() -> bool:
        assert all(p.poll() is None for p in both.values()), logs()
        return bool(fleet.rounds_done() >= 1)

    assert waited(trains, 120, look_s=0.1), logs()
    assert all(well(image) for image in both), logs()
    for process in both.values():
        process.send_signal(signal.SIGTERM)
    assert [process.wait(patience(60)) for process in both.values()] == [0, 0], logs()
    assert not any(well(image) for image in both)
    assert fleet.rounds_done() >= 1
    assert "Traceback" not in logs()
