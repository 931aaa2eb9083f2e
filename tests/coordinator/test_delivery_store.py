"""The store of deliveries: two processes write it, and a bundle stays while wanted."""

from __future__ import annotations

import hashlib
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from patience import patience

from coordinator.delivery.store import PENDING, SUPERSEDED, DeliveryStore
from edge_sdk.errors import StateError


def add(book: DeliveryStore, packed: bytes, device: str) -> str:
    blob = hashlib.sha256(packed).hexdigest()
    digest, devices = bytes(32), [device]
    book.add(packed, blob, digest=digest, key=None, label="mnist", devices=devices)
    return blob


def test_a_bundle_just_recorded_outlives_another_processs_clearing(
    tmp_path: Path,
) -> None:
    done = threading.Event()

    def clear() -> None:
        while not done.is_set():
            DeliveryStore(tmp_path).forget()

    clearing = threading.Thread(target=clear)
    clearing.start()
    try:
        for no in range(40):
            packed = b"bundle %d" % no
            blob = add(DeliveryStore(tmp_path), packed, f"pi-{no}")
            assert DeliveryStore(tmp_path).content(blob) == packed
    finally:
        done.set()
        clearing.join()


def test_two_who_make_the_book_at_once_both_have_it(tmp_path: Path) -> None:
    for no in range(30):
        start, folder = threading.Barrier(2), tmp_path / str(no)

        def make(start: threading.Barrier = start, folder: Path = folder) -> str:
            start.wait(patience(10))
            return DeliveryStore(folder).forget() or "made"

        with ThreadPoolExecutor(2) as pool:
            assert list(pool.map(lambda _: make(), range(2))) == ["made", "made"]


def test_a_bundle_leaves_once_nobody_waits_for_it(tmp_path: Path) -> None:
    book = DeliveryStore(tmp_path)
    first = add(book, b"first", "pi-1")
    second = add(book, b"second", "pi-1")
    latest = book.latest()["pi-1"]
    assert (latest.no, latest.blob, latest.verdict) == (2, second, PENDING)
    book.end(1, "pi-1", "live", "")  # superseded, and stays so
    book.forget()
    assert book.content(second) == b"second"
    with pytest.raises(StateError, match="gone"):
        book.content(first)
    book.end(2, "pi-1", "live", "")
    book.forget()
    with pytest.raises(StateError, match="gone"):
        book.content(second)
    assert book.latest()["pi-1"].verdict != SUPERSEDED


def test_what_changed_on_the_disk_is_not_sent(tmp_path: Path) -> None:
    book = DeliveryStore(tmp_path)
    blob = add(book, b"first", "pi-1")
    (tmp_path / "deliveries" / blob).write_bytes(b"other")
    with pytest.raises(StateError, match="no longer has its digest"):
        book.content(blob)
