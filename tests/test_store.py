"""The store: results are whole or not there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from pixelwizard.records.jobs import key
from pixelwizard.records.store import STALE_SECONDS, Store

TENSORS = {"latent": torch.arange(6.0).view(2, 3), "step": torch.tensor(3)}


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.save("anchor", "ab12", TENSORS, {"seconds": 1.5})
    assert store.has("anchor", "ab12") and not store.has("detail", "ab12")
    loaded = store.load("anchor", "ab12")
    assert all(torch.equal(loaded[name], value) for name, value in TENSORS.items())
    assert store.facts("anchor", "ab12") == {"seconds": 1.5}
    store.remove("anchor", "ab12")
    assert not store.has("anchor", "ab12")


def test_views_and_shared_tensors_are_saved(tmp_path: Path) -> None:
    store, base = Store(tmp_path), torch.arange(8.0)
    store.save("state", "ab", {"a": base[:4], "b": base, "c": base.view(2, 4).T}, {})
    assert torch.equal(store.load("state", "ab")["c"], base.view(2, 4).T)


def test_a_damaged_result_counts_as_missing(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.save("anchor", "ab12", TENSORS, {})
    path = store.path("anchor", "ab12")
    path.write_bytes(path.read_bytes()[:-4])
    assert not store.has("anchor", "ab12") and not path.exists()


def test_a_failed_write_leaves_the_old_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path)
    store.save("anchor", "ab12", TENSORS, {})

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pixelwizard.records.store.save_file", full)
    with pytest.raises(ValueError, match="store.dir=.* cannot be written .No space left"):
        store.save("anchor", "ab12", {"latent": torch.zeros(1)}, {})
    assert torch.equal(store.load("anchor", "ab12")["latent"], TENSORS["latent"])
    assert not list(tmp_path.rglob("*.part"))


def test_leftovers_of_killed_writers_go_when_they_are_old(tmp_path: Path) -> None:
    folder = tmp_path / "anchor" / "ab"
    folder.mkdir(parents=True)
    old, new = folder / "ab1.7.part", folder / "ab2.8.part"
    for part in (old, new):
        part.touch()
    os.utime(old, (0, os.stat(old).st_mtime - 2 * STALE_SECONDS))
    Store(tmp_path)
    assert not old.exists() and new.exists()


def test_a_store_that_cannot_be_written_is_the_users_mistake(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="store.dir=.*file.* cannot be written"):
        Store(tmp_path / "file" / "store")


def test_keys_depend_on_every_value_and_not_on_order() -> None:
    assert key(a=1, b=[2]) == key(b=[2], a=1)
    assert len({key(a=1), key(a=2), key(b=1), key(a="1")}) == 4
