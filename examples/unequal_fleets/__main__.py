"""Does density pay in an unequal fleet? Tune, test, then print the table."""

from __future__ import annotations

import argparse
import json
import multiprocessing
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

from examples.unequal_fleets.choice import jobs_of
from examples.unequal_fleets.data import SETS
from examples.unequal_fleets.judge import run
from examples.unequal_fleets.methods import TABLE
from examples.unequal_fleets.table import tables


def main() -> None:
    """Runs what is missing; the same command goes on where it was stopped."""
    parser = argparse.ArgumentParser(
        prog="python -m examples.unequal_fleets", description=__doc__
    )
    parser.add_argument("part", choices=["tune", "test", "table"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--files", type=Path, help="folder of the data sets' files")
    parser.add_argument("--sets", nargs="+", choices=list(SETS), default=list(SETS))
    parser.add_argument("--methods", nargs="+", default=[m.name for m in TABLE])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--rounds", type=int, help="another horizon than a set's own")
    parser.add_argument(
        "--tuning-seeds",
        type=int,
        choices=[1, 2],
        default=2,
        help="how many seeds choose a rate, for every method alike",
    )
    parser.add_argument(
        "--halving",
        action="store_true",
        help="eight rates with a quarter of the rounds, the best two whole, for every "
        "method alike",
    )
    parser.add_argument("--jobs", type=int, default=2)
    given = parser.parse_args()
    files = given.files or Path("~/.cache/flash-edge").expanduser()
    if given.part == "table":
        print(tables(given.folder, given.sets, given.methods))
        return
    chosen = (
        *(given.sets, given.methods, given.seeds, given.rounds),
        given.tuning_seeds,
    )
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(given.jobs, mp_context=context) as pool:
        while todo := jobs_of(given.folder, given.part, *chosen, halving=given.halving):
            running = {pool.submit(run, job, files, given.folder): job for job in todo}
            for number, future in enumerate(as_completed(running), 1):
                place = running[future].place(given.folder)
                place.parent.mkdir(parents=True, exist_ok=True)
                found = future.result()
                place.write_text(json.dumps(found, indent=1))
                told = f"{number}/{len(todo)} {place.stem}: {found['accuracy']}"
                print(told, flush=True)


if __name__ == "__main__":
    main()
