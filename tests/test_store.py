"""The store: results are whole or not there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from pixelwizard.config.generate import GenerateConfig, SamplerSettings
from pixelwizard.data.prompts import Prompt
from pixelwizard.io.store import Store
from pixelwizard.records.provenance import key, make_jobs

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


def test_one_flipped_bit_anywhere_makes_a_result_missing(tmp_path: Path) -> None:
    said: list[str] = []
    store = Store(tmp_path, said.append)
    store.save("anchor", "ab12", TENSORS, {"seconds": 1.5})
    path = store.path("anchor", "ab12")
    whole = path.read_bytes()
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        found = store.find("anchor", "ab12")
        assert found is None or all(torch.equal(found[n], v) for n, v in TENSORS.items())
    assert len(said) > 200 and said[0] == f"{path} is damaged; it was removed and is computed again"


def test_a_result_under_the_name_of_another_counts_as_missing(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.save("anchor", "ab12", TENSORS, {})
    store.save("anchor", "ab34", {}, {})
    os.replace(store.path("anchor", "ab12"), store.path("anchor", "ab34"))
    assert store.find("anchor", "ab34") is None


def test_damaged_facts_are_none(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.save("anchor", "ab12", TENSORS, {"seconds": 1.5})
    store.path("anchor", "ab12").write_bytes(b"7")
    assert store.facts("anchor", "ab12") is store.facts("anchor", "ab34") is None


def test_a_torn_result_counts_as_missing(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.save("anchor", "ab12", TENSORS, {})
    path = store.path("anchor", "ab12")
    path.write_bytes(path.read_bytes()[:-4])
    assert store.find("anchor", "ab12") is None and not path.exists()
    with pytest.raises(ValueError, match="ab12.safetensors is gone; the same command"):
        store.load("anchor", "ab12")


def test_a_result_of_before_there_were_hashes_is_read(tmp_path: Path) -> None:
    store = Store(tmp_path)
    path = store.path("anchor", "ab12")
    path.parent.mkdir(parents=True)
    save_file(TENSORS, path, {"facts": "{}"})
    found = store.load("anchor", "ab12")
    assert all(torch.equal(found[name], value) for name, value in TENSORS.items())


def test_a_failed_write_leaves_the_old_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path)
    store.save("anchor", "ab12", TENSORS, {})

    def full(*_: object) -> None:
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("pixelwizard.io.store.save_file", full)
    with pytest.raises(ValueError, match="store.dir=.* cannot be written .the disk is full"):
        store.save("anchor", "ab12", {"latent": torch.zeros(1)}, {})
    assert torch.equal(store.load("anchor", "ab12")["latent"], TENSORS["latent"])
    assert not list(tmp_path.rglob("*.part"))


def test_a_store_that_cannot_be_written_is_the_users_mistake(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="store.dir=.*file.* cannot be written"):
        Store(tmp_path / "file" / "store")


def test_keys_depend_on_every_value_and_not_on_order() -> None:
    assert key(a=1, b=[2]) == key(b=[2], a=1)
    assert len({key(a=1), key(a=2), key(b=1), key(a="1")}) == 4


def test_the_keys_of_results_are_those_of_the_first_release() -> None:
    digests = {part: part for part in ("text_encoder", "anchor", "detail", "vae")}
    schedule = SamplerSettings(steps=4, step_sizes="raw", guidance=1.0)
    config = GenerateConfig(run_dir="run", schedule=schedule)
    (job,) = make_jobs(config, [Prompt("one", "a red circle", "blur", 100, 10000)], digests)
    keys = (job.text_key, job.negative_key, job.anchor_key, job.detail_key, job.video_key)
    assert [key[:16] for key in keys] == [
        *("2824cffa58138901", "224b5e78283db526", "c3edb717d09c24c2"),
        *("185e11d6d9ae1a11", "04fa5b8fa636fd50"),
    ]


def test_a_pipe_in_a_results_place_is_no_result_and_is_written_over(tmp_path: Path) -> None:
    store = Store(tmp_path)
    place = store.path("anchor", "ab")
    place.parent.mkdir(parents=True)
    os.mkfifo(place)
    assert not store.has("anchor", "ab") and store.facts("anchor", "ab") is None
    store.save("anchor", "ab", {"latent": torch.zeros(2)}, {"seconds": 1.0})
    assert store.facts("anchor", "ab") == {"seconds": 1.0} and store.find("anchor", "ab")
