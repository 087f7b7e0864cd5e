"""Imports in a worker: what they make stays, and no collection looks at it."""

from __future__ import annotations

import gc
import multiprocessing
from multiprocessing.connection import Connection

from pixelwizard.io.process import importing


def import_something(to_parent: Connection) -> None:
    before, kept = gc.get_freeze_count(), []
    with importing():
        enabled = gc.isenabled()
        kept.append([])
    to_parent.send((enabled, gc.isenabled(), gc.get_freeze_count() > before))


def test_a_worker_collects_nothing_while_it_imports_and_skips_it_later() -> None:
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("fork").Process(target=import_something, args=(theirs,))
    process.start()
    assert ours.recv() == (False, True, True)
    process.join()


def test_the_garbage_of_who_calls_us_is_still_collected() -> None:
    before = gc.get_freeze_count()
    with importing():
        assert gc.isenabled()
    assert gc.get_freeze_count() == before
