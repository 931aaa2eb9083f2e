"""Examples out of a SQLite database, in which a device records."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np

from edge_sdk.datasets.growing.timed import TimedExamples
from edge_sdk.errors import DataError

__all__ = ["sqlite_examples"]


def sqlite_examples(
    path: Path,
    query: str,
    *,
    shape: tuple[int, ...],
    dtype: str = "float32",
    target_dtype: str = "int64",
) -> TimedExamples:
    """The examples of a query, in its order; held once in memory.

    The database is opened to read, while somebody else may write.

    Args:
        path: The database's file.
        query: Gives rows of an input, a target and, for windows of time, seconds since
            1970: a SELECT that ends in an ORDER BY, the newest last.
        shape: Of one input; it is a BLOB of that many values, C order, little-endian.
        dtype: Of inputs.
        target_dtype: Of targets.

    Raises:
        DataError: If there is no such file, the query fails or gives nothing, or an
            input has another size.
    """
    if not path.is_file():
        raise DataError(f"{path} is no file", remedy="Name the database's file.")
    kind = np.dtype(dtype).newbyteorder("<")
    size = kind.itemsize * int(np.prod(shape))
    try:
        with closing(
            sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)
        ) as db:
            db.execute("BEGIN")  # one state of the database for both queries
            (total,) = db.execute(f"SELECT count(*) FROM ({query})").fetchone()  # noqa: S608 - the user's own query
            inputs = np.empty((total, *shape), kind)
            targets, times = np.empty(total, target_dtype), np.empty(total, np.float64)
            timed = True
            for at, (blob, target, *time) in enumerate(db.execute(query)):
                if not isinstance(blob, bytes) or len(blob) != size:
                    found = (
                        len(blob) if isinstance(blob, bytes) else type(blob).__name__
                    )
                    raise DataError(
                        f"{path}: input {at} is {found}, not a BLOB of {size} bytes"
                    )
                inputs[at] = np.frombuffer(blob, kind).reshape(shape)
                targets[at] = target
                timed = timed and bool(time) and time[0] is not None
                times[at] = time[0] if timed else 0.0
    except (sqlite3.Error, ValueError, TypeError) as error:
        raise DataError(
            f"{path} cannot be read: {error}",
            remedy="The query gives rows of input, target and, if need be, time.",
        ) from error
    return TimedExamples(inputs, targets, times=times if timed else None)
