from __future__ import annotations

import datetime as dt
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from patience import patience

from coordinator.broker.start import open_broker
from device_profiles import cost_of, load_board, load_profile
from device_profiles.step_time import step_terms
from edge_sdk.device.probe.board import clock_complaint, free_disk_mib, read_board
from edge_sdk.device.probe.link import measure_link
from edge_sdk.device.probe.ram import ceilings, ram_for_agent
from edge_sdk.device.probe.report import default_path, write_profile
from edge_sdk.device.probe.run import probe
from edge_sdk.device.probe.sensors import Power, read_power, read_thermal
from edge_sdk.device.probe.steps import measure_steps
from edge_sdk.errors import BrokerError, CheckpointError, DataError
from edge_sdk.kernels.library import available
from edge_sdk.tasks import load_task
from edge_sdk.tasks.cost import workload_of
from edge_sdk.tasks.task import Examples

TASK = load_task("digits")


@pytest.fixture(scope="module")
def examples() -> Examples:
    rng = np.random.default_rng(0)
    return Examples(
        rng.integers(0, 17, (400, *TASK.input_shape)).astype(np.uint8),
        rng.integers(0, 10, 400),
    )


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def put(root: Path, path: str, text: str) -> None:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(text)


# -- the whole probe ---


def test_a_probe_of_this_machine_tells_its_steps_and_can_be_read_back(
    examples: Examples, tmp_path: Path
) -> None:
    said: list[tuple[float, str]] = []
    profile = probe(
        TASK,
        examples,
        engine="masked",
        densities=(0.1, 0.5),
        seconds=3.0,
        progress=lambda share, what: said.append((share, what)),
        folder=tmp_path,
        today=dt.date(2026, 11, 21),
    )
    assert said[0][0] == 0.0
    assert said[-1] == (1.0, "done")
    assert [share for share, _ in said] == sorted(share for share, _ in said)
    assert profile.provenance.kind == "measured"
    assert profile.engine == "masked"
    notes = profile.provenance.notes
    assert {"step_0.1_batch_32", "step_0.5_batch_8", "ram_mib"} <= set(notes)
    assert notes["uplink_mbit_s"].startswith("estimate: no broker")
    assert "clock" not in notes
    load = workload_of(TASK, examples=400, epochs=1, batch=32)
    # How near it tells them is for tests/bench/bench_budget.py: a busy machine here
    # must not fail a test.
    assert step_terms(load, 0.2, "masked").seconds(profile) > 0
    assert cost_of(profile, load, 0.2).peak_mib > 50
    path = default_path(tmp_path)
    write_profile(path, profile)
    assert load_profile(path) == profile


def test_a_probe_in_1970_says_so_and_still_measures(examples: Examples) -> None:
    profile = probe(
        TASK,
        examples,
        engine="masked",
        densities=(0.2,),
        seconds=0.5,
        broker_url="mqtt://127.0.0.1:9",
        today=dt.date(1970, 1, 2),
    )
    assert "the clock says 1970-01-02" in profile.provenance.notes["clock"]
    assert "not measured, no MQTT broker" in profile.provenance.notes["uplink_mbit_s"]


@pytest.mark.parametrize("engine", ["program", "auto"])
def test_the_engine_that_ran_is_named_with_its_reason(
    examples: Examples, engine: str
) -> None:
    if available() is None:
        pytest.skip("no native kernels on this machine")
    step = measure_steps(
        TASK,
        examples,
        0.1,
        batch=32,
        engine=engine,  # type: ignore[arg-type]
        seconds=0.2,
    )
    assert step.engine in ("sparse", "masked")  # what a step costs: kept weights or all
    assert step.reason
    if engine == "program":
        assert step.engine == "sparse"


def test_a_probe_without_density_or_time_is_refused(examples: Examples) -> None:
    with pytest.raises(DataError, match="density"):
        probe(TASK, examples, densities=())
    with pytest.raises(DataError, match="time"):
        probe(TASK, examples, seconds=0.0)


def test_the_probe_holds_little_beside_the_training_it_measures() -> None:
    """Under 150 MB above it: the peak of a probing process, less a training one's."""
    body = """
        import sys, resource
        import numpy as np, torch
        torch.set_num_threads(1)
        from edge_sdk.tasks import load_task
        from edge_sdk.tasks.task import Examples
        from edge_sdk.device.probe.run import probe
        from edge_sdk.device.probe.steps import measure_steps
        task = load_task("digits")
        data = Examples(np.zeros((64, *task.input_shape), np.uint8),
                        np.zeros(64, np.int64))
        if sys.argv[1] == "probe":
            probe(task, data, engine="masked", densities=(0.2,), seconds=1.0)
        else:
            measure_steps(task, data, 0.2, batch=32, engine="masked", seconds=0.5)
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
    """
    peaks = {
        kind: int(
            subprocess.run(
                [sys.executable, "-c", textwrap.dedent(body), kind],
                capture_output=True,
                text=True,
                check=True,
                timeout=patience(120),
            ).stdout
        )
        for kind in ("probe", "train")
    }
    assert peaks["probe"] - peaks["train"] < 150


def test_a_reboot_while_writing_leaves_a_whole_profile(tmp_path: Path) -> None:
    """A process that does nothing but write is killed: the file is old or new."""
    path = tmp_path / "profile.toml"
    body = f"""
        from pathlib import Path
        from device_profiles import load_board
        from edge_sdk.device.probe.report import write_profile
        boards = load_board("jetson_nano"), load_board("raspberry_pi_4b_4gb")
        print("ready", flush=True)
        while True:
            for board in boards:
                write_profile(Path({str(path)!r}), board)
    """
    for _ in range(3):
        writer = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(body)], stdout=subprocess.PIPE
        )
        assert writer.stdout is not None
        writer.stdout.readline()
        while not path.exists():
            time.sleep(0.001)
        time.sleep(0.05)
        writer.kill()
        writer.wait()
        writer.stdout.close()
        assert load_profile(path).board in ("jetson_nano", "raspberry_pi_4b_4gb")


def test_a_folder_that_cannot_be_written_is_an_error() -> None:
    with pytest.raises(CheckpointError):
        write_profile(Path("/proc/nowhere/profile.toml"), load_board("jetson_nano"))


# -- the link ---


@pytest.mark.broker
def test_a_link_is_measured_through_a_real_broker(tmp_path: Path) -> None:
    with open_broker(None, tmp_path) as broker:
        began = time.perf_counter()
        link = measure_link(broker.url, seconds=0.3)
        took_s = time.perf_counter() - began
    # It took no longer than all of it, however busy the machine is.
    assert link.mbit_s > link.chunks * 64 * 1024 * 8e-6 / took_s
    assert 0.0 < link.rtt_ms < 1000 * took_s
    assert link.chunks >= 4


def test_no_broker_is_an_error_of_the_link() -> None:
    with pytest.raises(BrokerError, match="no MQTT broker answers"):
        measure_link("mqtt://127.0.0.1:9", seconds=0.1, wait_s=3600.0)


# -- memory ceilings ---


def board(root: Path, *, available_kib: int = 900_000, own_kib: int = 100_000) -> None:
    put(root, "proc/meminfo", f"MemTotal: 1000000 kB\nMemAvailable: {available_kib} kB")
    put(root, "proc/self/status", f"RssAnon: {own_kib} kB\nVmSize: 9 kB\nVmData: 9 kB")


def test_without_ceilings_the_board_decides_and_our_own_memory_is_ours(
    tmp_path: Path,
) -> None:
    board(tmp_path)
    found = ram_for_agent(tmp_path)
    assert found.free_mib == 1_000_000 // 1024
    assert "the board leaves" in found.why


def test_a_cgroup_v2_and_every_one_above_it_count(tmp_path: Path) -> None:
    board(tmp_path)
    put(tmp_path, "proc/self/cgroup", "0::/system.slice/flash-edge.service\n")
    base = "sys/fs/cgroup/system.slice"
    put(tmp_path, f"{base}/flash-edge.service/memory.max", "max")
    put(tmp_path, f"{base}/memory.max", str(512 << 20))
    put(tmp_path, f"{base}/memory.current", str(300 << 20))
    put(tmp_path, f"{base}/memory.stat", f"anon 1\ninactive_file {100 << 20}\n")
    (only,) = ceilings(tmp_path)
    assert only.name == "cgroup /system.slice"
    assert (only.limit_mib, only.free_mib) == (512, 512 - 200 + 100_000 // 1024)
    assert ram_for_agent(tmp_path).free_mib == only.free_mib


def test_a_cgroup_v1_counts_too_and_its_unlimited_is_none(tmp_path: Path) -> None:
    board(tmp_path)
    put(tmp_path, "proc/self/cgroup", "5:cpu,cpuacct:/x\n4:memory:/docker/abc\n")
    base = "sys/fs/cgroup/memory"
    put(tmp_path, f"{base}/memory.limit_in_bytes", "9223372036854771712")
    put(tmp_path, f"{base}/docker/abc/memory.limit_in_bytes", str(256 << 20))
    put(tmp_path, f"{base}/docker/abc/memory.usage_in_bytes", str(120 << 20))
    (only,) = ceilings(tmp_path)
    assert only.name == "cgroup /docker/abc"
    assert only.free_mib == 256 - 120 + 100_000 // 1024


def test_a_resource_limit_counts(tmp_path: Path) -> None:
    body = """
        import resource
        from pathlib import Path
        from edge_sdk.device.probe.ram import ceilings
        resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
        print([c.name for c in ceilings() if c.limit_mib == 1024])
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(body)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "RLIMIT_AS" in done.stdout


def test_a_board_that_says_nothing_still_gets_an_answer(tmp_path: Path) -> None:
    assert ram_for_agent(tmp_path).free_mib >= 1


# -- sensors, board, clock ---


def test_the_hottest_sensor_counts_and_dead_ones_do_not(tmp_path: Path) -> None:
    for zone, text in enumerate(("61500\n", "0\n", "-273000", "rubbish", "48200")):
        put(tmp_path, f"sys/class/thermal/thermal_zone{zone}/temp", text)
    found = read_thermal(tmp_path)
    assert found.celsius == 61.5
    assert found.throttled is None


def test_no_sensor_is_said_and_not_guessed(tmp_path: Path) -> None:
    found = read_thermal(tmp_path)
    assert (found.celsius, found.throttled) == (None, None)
    assert found.detail == "no temperature sensor, throttling not reported here"


@pytest.mark.parametrize(
    ("bits", "throttled", "words"),
    [
        ("0x0", False, "not throttled"),
        ("0x50005", True, "under-voltage"),
        ("0x4", True, "throttled now"),
        ("0x40000", False, "since boot"),
        ("what", None, "unknown"),
    ],
)
def test_a_raspberry_pi_tells_whether_it_throttles(
    tmp_path: Path, bits: str, throttled: bool | None, words: str
) -> None:
    put(tmp_path, "sys/devices/platform/soc/soc:firmware/get_throttled", bits)
    found = read_thermal(tmp_path)
    assert found.throttled is throttled
    assert words in found.detail


def test_a_battery_is_read_and_a_mouse_is_not(tmp_path: Path) -> None:
    assert read_power(tmp_path) == Power(on_battery=False, percent=None)
    supply = "sys/class/power_supply"
    put(tmp_path, f"{supply}/mouse/type", "Battery\n")
    put(tmp_path, f"{supply}/mouse/scope", "Device\n")
    put(tmp_path, f"{supply}/mouse/status", "Discharging\n")
    put(tmp_path, f"{supply}/BAT0/type", "Battery\n")
    put(tmp_path, f"{supply}/BAT0/status", "Discharging\n")
    put(tmp_path, f"{supply}/BAT0/capacity", "42\n")
    assert read_power(tmp_path) == Power(on_battery=True, percent=42)


def test_a_board_names_itself_and_its_vector_units(tmp_path: Path) -> None:
    put(tmp_path, "proc/device-tree/model", "Raspberry Pi 4 Model B Rev 1.4\0")
    put(tmp_path, "proc/cpuinfo", "processor : 0\nFeatures : fp asimd evtstrm crc32\n")
    put(tmp_path, "sys/fs/cgroup/cpu.max", "50000 100000\n")
    found = read_board(tmp_path)
    assert found.name == "Raspberry Pi 4 Model B Rev 1.4"
    assert (found.simd, found.cores) == (("asimd",), 1)
    assert read_board(tmp_path / "nothing").cores >= 1


@pytest.mark.parametrize("day", [dt.date(1970, 1, 1), dt.date(2106, 2, 7)])
def test_a_clock_that_cannot_be_believed_is_said(day: dt.date) -> None:
    said = clock_complaint(day)
    assert said is not None
    assert day.isoformat() in said
    assert clock_complaint(dt.date(2026, 11, 21)) is None


def test_free_space_is_that_of_the_nearest_folder_there_is(tmp_path: Path) -> None:
    assert free_disk_mib(tmp_path / "not" / "yet") == free_disk_mib(tmp_path) > 0
