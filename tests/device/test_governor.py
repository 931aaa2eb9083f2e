from __future__ import annotations

import datetime as dt
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from patience import patience

from device_profiles import Caps, LayerLoad, Workload
from device_profiles.cost import payload_bytes
from device_profiles.memory import peak_mib
from edge_sdk.device.limits.decision import (
    CELSIUS,
    COOL_BY,
    Conditions,
    Go,
    Pause,
    decide,
    read_conditions,
)
from edge_sdk.device.limits.memory import micro_batch, ram_cap, shrinking
from edge_sdk.device.limits.processor import rest_after_s, threads_for
from edge_sdk.device.probe.ram import Ceiling
from edge_sdk.device.probe.sensors import Power, Thermal
from edge_sdk.errors import EngineError

MAINS = Power(on_battery=False, percent=None)
LOAD = Workload(
    layers=(LayerLoad("w", 100_000, 1_000_000),),
    other_numel=0,
    activations=100_000,
    input_bytes=100,
    examples=1_000,
    batch=32,
    saved_bytes=1 << 20,
)


def conditions(
    *,
    minute: int = 720,
    celsius: float | None = 50.0,
    power: Power = MAINS,
    metered: bool | None = None,
    moved: int = 0,
) -> Conditions:
    return Conditions(minute, Thermal(celsius, None, ""), power, metered, moved)


def test_a_board_that_nothing_holds_back_trains() -> None:
    assert decide(Caps(), conditions()) == Go()
    assert decide(Caps(), conditions(celsius=None)) == Go()


@given(st.floats(20.0, 110.0), st.booleans())
def test_heat_pauses_and_cooling_resumes_well_below(
    celsius: float, paused: bool
) -> None:
    """One that pauses needs to be cooler than one that trains: no flutter."""
    verdict = decide(Caps(), conditions(celsius=celsius), paused=paused)
    limit = CELSIUS - COOL_BY if paused else CELSIUS
    assert isinstance(verdict, Pause) == (celsius >= limit)


def test_an_owners_ceiling_and_hours_and_battery_and_link_are_kept() -> None:
    night = Caps(hours=("22:00-06:00",))
    assert decide(night, conditions(minute=23 * 60)) == Go()
    assert decide(night, conditions(minute=21 * 60)) == Pause(
        3600.0, "quiet until 22:00"
    )
    hot = decide(Caps(celsius=45.0), conditions(celsius=50.0))
    assert isinstance(hot, Pause)
    assert hot.why == "50 C, cooling below 45"
    low = Power(on_battery=True, percent=20)
    saver = Caps(battery_percent=40)
    assert isinstance(decide(saver, conditions(power=low)), Pause)
    assert decide(saver, conditions(power=Power(on_battery=False, percent=20))) == Go()
    assert decide(Caps(), conditions(power=low)) == Go()
    frugal = Caps(metered=False)
    assert isinstance(decide(frugal, conditions(metered=True)), Pause)
    assert decide(frugal, conditions(metered=None)) == Go()
    assert decide(Caps(), conditions(metered=True)) == Go()


def test_a_clock_in_1970_keeps_no_hours_and_says_so() -> None:
    """Whose owner allows every hour trains; others wait until the clock is set."""
    at = dt.datetime(1970, 1, 1, 23, 0, tzinfo=dt.timezone.utc)
    found = read_conditions(at, root=Path("/nothing"))
    assert decide(Caps(), found) == Go()
    verdict = decide(Caps(hours=("22:00-06:00",)), found)
    assert isinstance(verdict, Pause)
    assert "hours cannot be kept: the clock says 1970-01-01" in verdict.why


def test_the_hard_cap_is_the_least_of_the_owners_and_the_processs() -> None:
    group = Ceiling("cgroup /x", free_mib=400, limit_mib=512)
    assert ram_cap(Caps(), []) is None
    assert ram_cap(Caps(ram_mib=600), []) == 600
    assert ram_cap(Caps(ram_mib=600), [group]) == 400
    assert ram_cap(Caps(ram_mib=300), [group]) == 300


def test_a_days_bytes_end_for_the_day() -> None:
    caps = Caps(bytes_per_day=1_000)
    assert decide(caps, conditions(moved=999)) == Go()
    verdict = decide(caps, conditions(moved=1_000))
    assert isinstance(verdict, Pause)
    assert "1000 bytes moved today of 1000" in verdict.why


@given(st.floats(150.0, 400.0), st.sampled_from(["masked", "sparse"]))
def test_a_micro_batch_fits_and_the_next_larger_one_does_not(
    ram_mib: float, engine: str
) -> None:
    payload = payload_bytes(LOAD, 0.1)

    def need(size: int) -> float:
        return peak_mib(LOAD, 0.1, payload, engine, batch=size)  # type: ignore[arg-type]

    size = micro_batch(LOAD, 0.1, engine, ram_mib=ram_mib)  # type: ignore[arg-type]
    if size is None:
        assert need(1) > ram_mib
        return
    assert need(size) <= ram_mib
    parts = -(-LOAD.batch // size)
    if parts > 1:  # one part fewer would not have fitted
        assert need(-(-LOAD.batch // (parts - 1))) > ram_mib


def test_plenty_of_memory_takes_the_whole_batch() -> None:
    assert micro_batch(LOAD, 0.1, "sparse", ram_mib=4_000) == 32


def test_running_out_of_memory_halves_the_batch_until_it_fits() -> None:
    tried: list[int] = []

    def run(size: int) -> str:
        tried.append(size)
        if size > 8:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        if size > 4:
            raise MemoryError
        return "done"

    assert shrinking(run, 32) == "done"
    assert tried == [32, 16, 8, 4]


def test_what_is_no_lack_of_memory_is_not_tried_again() -> None:
    def run(size: int) -> None:
        raise RuntimeError("shapes differ")

    with pytest.raises(RuntimeError, match="shapes differ"):
        shrinking(run, 32)

    def never(size: int) -> None:
        raise MemoryError

    with pytest.raises(EngineError, match="one example does not fit"):
        shrinking(never, 4)


@given(st.integers(1, 64), st.floats(0.01, 1.0), st.floats(0.001, 10.0))
def test_threads_and_rests_together_keep_to_the_share(
    cores: int, share: float, step_s: float
) -> None:
    threads = threads_for(cores, share)
    assert 1 <= threads <= cores
    rest = rest_after_s(step_s, cores=cores, cpu_share=share)
    used = threads / cores * step_s / (step_s + rest)
    assert used <= share * (1 + 1e-6)


def test_under_a_hard_cap_an_allocation_fails_and_nobody_is_killed() -> None:
    """Half a gigabyte is refused under a cap; the process lives on and shrinks."""
    body = """
        import numpy as np
        from edge_sdk.device.limits.memory import hold_to, shrinking
        def run(size):
            return float(np.ones(size << 20, np.uint8)[-1]) + size
        with hold_to(200):
            print(shrinking(run, 512))
        print(run(512))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(body)],
        capture_output=True,
        text=True,
        check=True,
        timeout=patience(60),
    )
    shrunk, free = done.stdout.split()
    assert 32 <= float(shrunk) - 1 < 256
    assert float(free) == 513.0


def test_a_cap_below_what_is_held_is_refused() -> None:
    from edge_sdk.device.limits.memory import hold_to

    with pytest.raises(EngineError, match="more than the cap of 1"), hold_to(1):
        pass


def test_conditions_are_read_from_the_board_itself(tmp_path: Path) -> None:
    zone = tmp_path / "sys/class/thermal/thermal_zone0"
    zone.mkdir(parents=True)
    (zone / "temp").write_text("91000")
    at = dt.datetime(2026, 11, 21, 22, 30, tzinfo=dt.timezone.utc)
    found = read_conditions(at, moved_today=7, root=tmp_path)
    assert (found.minute, found.moved_today) == (1350, 7)
    assert isinstance(decide(Caps(), found), Pause)
