"""Settings behind an algorithm's name, in run.toml and on the command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from coordinator.algorithms import ALGORITHMS, MAKERS
from coordinator.algorithms.base import RoundContext
from coordinator.algorithms.evidence import Replay
from coordinator.algorithms.load import load_algorithm, name_of
from coordinator.settings import load_run
from edge_sdk.errors import SettingsError
from edge_sdk.wire.rules import Proximal, Regrow

RUN = """
federation = "test"
task = "digits"
evaluation = "data"
densities = [0.1]
rounds = 2
algorithm = {}
"""


@pytest.mark.parametrize("name", MAKERS)
def test_without_any_it_is_the_one_of_the_table(name: str) -> None:
    found = load_algorithm(f"{name}()")
    assert name_of(found) == name_of(ALGORITHMS[name])


def test_they_reach_the_algorithm(tmp_path: Path) -> None:
    found = load_algorithm("feddst(share=0.3, interval=2)")
    assert found.local(RoundContext(1, 9, 0.1)) == Regrow(share=0.3)
    other = load_algorithm('fedadam(learning_rate=1e-2, on="fedprox(mu=0.5)")')
    assert other.name == "fedadam-on-fedprox"
    assert other.local(RoundContext(1, 9, 0.1)) == Proximal(mu=0.5)
    path = tmp_path / "run.toml"
    path.write_text(RUN.format("'fedavgm(momentum=0.5, on=\"flash-scaled\")'"))
    assert load_run(path).algorithm == 'fedavgm(momentum=0.5, on="flash-scaled")'


def test_the_default_without_a_warm_up_asks_no_device() -> None:
    found, usual = load_algorithm("flash-edge(epochs=0)"), load_algorithm("flash-edge")
    assert usual.warms_up
    assert not found.warms_up
    assert found.evidence == Replay()
    for slot in ("plan", "local", "assign", "revise", "aggregate", "start"):
        assert repr(getattr(found, slot)) == repr(getattr(usual, slot))


@pytest.mark.parametrize(
    ("reference", "says"),
    [
        ("feddst(part=0.3)", "feddst has no setting part"),
        ("feddst(0.3)", "each setting needs its name"),
        ("feddst(**{})", "each setting needs its name"),
        ("feddst(share=1.5)", "share 1.5"),
        ("feddst(share=0)", "share 0"),
        ('feddst(share="a lot")', "feddst"),
        ("feddst(share=open('/etc/passwd'))", "cannot be read"),
        ("feddst(share=0.3", "is none of"),
        ("feddst(share=)", "cannot be read"),
        ("erk(share=0.3)", "erk has no settings"),
        ("nothing(a=1)", "nothing has no settings"),
        ('fedadam(on="feddts")', "is none of"),
        ('scaffold(on="feddst")', "scaffold on feddst"),
        ("flash(epochs=0)", "slot evidence asks for 0 epochs"),
        ("flash(epochs=2.5)", "slot evidence asks for 2.5 epochs"),
        ("flash-edge(epochs=-1)", "slot evidence asks for -1 epochs"),
        ("hetero-flash(epochs=0)", "slot evidence asks for 0 epochs"),
        ("jmwst(epochs=0)", "slot evidence asks for 0 epochs"),
        ("jmwst(interval=0)", "slot local"),
        ("salientgrads(batches=0)", "slot evidence gave Score"),
        ("zerofl(extra=-1)", "slot local"),
        ("flash-edge(share=2)", "no setting share"),
    ],
)
def test_what_cannot_be_is_said(reference: str, says: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load_algorithm(reference)
    assert says in str(caught.value)
