"""Fetching from a hub on this machine: only what is missing, continued, checked, told plainly."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from huggingface_hub import constants

from pixelwizard.cli.main import main
from pixelwizard.config.backbone import SourceSettings
from pixelwizard.io.hub import FetchError, fetch
from pixelwizard.records.run_folder import locked

COMMIT = "c" * 40
LARGE = bytes(range(256)) * 400
SMALL = b'{"dim": 3072}\n'
SOURCE = SourceSettings(
    name="some", repo="who/some", files=["config.json", "4k/model.pt"], note="it is announced"
)


@dataclass
class Hub:
    """What the server has, how it misbehaves, and what it was asked."""

    url: str
    files: dict[str, bytes] = field(
        default_factory=lambda: {"config.json": SMALL, "4k/model.pt": LARGE}
    )
    stop_after: int | None = None
    damage: bool = False
    requests: list[tuple[str, str, str | None]] = field(default_factory=list)
    tokens: set[str | None] = field(default_factory=set)

    def gets(self) -> list[tuple[str, str | None]]:
        return [(name, asked) for method, name, asked in self.requests if method == "GET"]


def etag(content: bytes) -> str:
    """sha256 for a large file, git's sha1 for a small one, as the hub does it."""
    if len(content) > 1000:
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class Handler(BaseHTTPRequestHandler):
    hub: Hub

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def answer(self) -> None:
        hub, (repo, name) = self.hub, self.path.lstrip("/").split("/resolve/", 1)
        revision, name = name.split("/", 1)
        asked = self.headers.get("Range")
        hub.requests.append((self.command, name, asked))
        hub.tokens.add(self.headers.get("Authorization"))
        known = repo == "who/some" and revision in (COMMIT, "main")
        if not known or name not in hub.files:
            self.send_response(404)
            self.send_header("X-Error-Code", "EntryNotFound" if known else "RepoNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        content = hub.files[name]
        start = int(asked.split("=")[1].rstrip("-")) if asked else 0
        self.send_response(206 if asked else 200)
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{etag(content)}"')
        self.send_header("Content-Length", str(len(content) - start))
        if asked:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        if self.command == "GET":
            if hub.damage:
                content = b"?" + content[1:]
            end = len(content) if hub.stop_after is None else hub.stop_after
            self.wfile.write(content[start:end])

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub on 127.0.0.1 that the client takes for the real one, and an empty cache."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    url = f"http://127.0.0.1:{server.server_port}"
    Handler.hub = Hub(url)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, url)
    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1000)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda seconds: None)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.chdir(tmp_path)
    yield Handler.hub
    server.shutdown()
    server.server_close()


@pytest.fixture
def source(hub: Hub, tmp_path: Path) -> SourceSettings:
    return SourceSettings(**{**SOURCE.__dict__, "folder": str(tmp_path / "weights")})


def silent(sentence: str) -> None:
    """Says nothing."""


def test_the_files_arrive_through_the_cache_and_a_second_call_asks_nothing(hub, source, tmp_path):
    assert fetch(source, silent) == source.files
    folder = tmp_path / "weights"
    assert (folder / "config.json").read_bytes() == SMALL
    assert (folder / "4k/model.pt").read_bytes() == LARGE
    real = (folder / "4k/model.pt").resolve()
    assert real.is_relative_to(tmp_path / "cache") and real.name == etag(LARGE)
    hub.requests.clear()
    assert fetch(source, silent) == []
    assert hub.requests == []


def test_what_the_cache_has_is_not_fetched_again_even_offline(hub, source, tmp_path, monkeypatch):
    fetch(source, silent)
    for name in source.files:
        (tmp_path / "weights" / name).unlink()
    hub.requests.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert fetch(source, silent) == source.files
    assert hub.requests == [] and (tmp_path / "weights/4k/model.pt").read_bytes() == LARGE


def test_offline_says_what_is_missing(hub, source, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(FetchError, match="config.json, 4k/model.pt .* HF_HUB_OFFLINE forbids"):
        fetch(source, silent)
    assert hub.requests == []


def test_an_interrupted_download_continues_where_it_stopped(hub, source, tmp_path):
    hub.stop_after = 30_000
    with pytest.raises(FetchError, match="did not arrive .* the same command continues"):
        fetch(source, silent)
    assert not (tmp_path / "weights/4k/model.pt").exists()
    hub.stop_after = None
    hub.requests.clear()
    assert fetch(source, silent) == ["4k/model.pt"]
    assert hub.gets() == [("4k/model.pt", "bytes=30000-")]
    assert (tmp_path / "weights/4k/model.pt").read_bytes() == LARGE


def test_a_damaged_file_is_refused_and_fetched_anew(hub, source, tmp_path):
    hub.damage = True
    with pytest.raises(FetchError, match="arrived damaged: its hash is not the hub's"):
        fetch(source, silent)
    assert not any((tmp_path / "weights").rglob("*"))
    hub.damage = False
    fetch(source, silent)
    assert (tmp_path / "weights/4k/model.pt").read_bytes() == LARGE


def test_a_cache_that_was_damaged_is_not_trusted(hub, source, tmp_path):
    fetch(source, silent)
    link = tmp_path / "weights/4k/model.pt"
    blob = link.resolve()
    blob.write_bytes(b"?" + LARGE[1:])
    link.unlink()
    said: list[str] = []
    assert fetch(source, said.append) == ["4k/model.pt"]
    assert any("damaged" in sentence for sentence in said)
    assert link.read_bytes() == LARGE


def test_a_file_that_the_hub_does_not_have_is_named_with_what_is_known(hub, source):
    del hub.files["4k/model.pt"]
    with pytest.raises(FetchError) as error:
        fetch(source, silent)
    text = "there is no 4k/model.pt of who/some at revision main: it is announced"
    assert str(error.value) == text
    assert hub.gets() == [], "nothing is fetched before all is known to be there"


def test_an_unknown_repository_asks_for_a_token(hub, source):
    with pytest.raises(FetchError, match="set HF_TOKEN or log in"):
        fetch(SourceSettings(**{**source.__dict__, "repo": "who/other"}), silent)


def test_a_token_is_sent(hub, source, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    fetch(source, silent)
    assert hub.tokens == {"Bearer hf_secret"}


def test_a_disk_that_is_too_small_is_told_before_anything_is_fetched(hub, source, monkeypatch):
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr("pixelwizard.io.hub.shutil.disk_usage", lambda path: usage)
    with pytest.raises(FetchError, match="0.0 GB left; set HF_HOME to a larger disk"):
        fetch(source, silent)
    assert hub.gets() == []


def test_a_folder_that_cannot_be_written_is_named(hub, source, tmp_path):
    (tmp_path / "weights").touch()
    with pytest.raises(FetchError, match="cannot be put into .*weights: "):
        fetch(source, silent)


def test_the_command_fetches_by_name(hub, tmp_path, capsys):
    words = ["fetch", "pixelwizard-4k", "source.repo=who/some"]
    assert main(words) == 0
    assert (tmp_path / "checkpoints/PixelWizard/4k/model.pt").read_bytes() == LARGE
    out = capsys.readouterr().out
    assert "use it with: pixelwizard backbone=wan2_2_ti2v_5b resolution=4k" in out
    assert main(words) == 0
    assert "has every file already" in capsys.readouterr().out


def test_a_second_fetch_into_a_folder_in_use_names_its_holder(hub, tmp_path, capsys):
    with locked(tmp_path / "checkpoints/PixelWizard", "pixelwizard fetch x"):
        assert main(["fetch", "pixelwizard-4k", "source.repo=who/some"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "pixelwizard fetch x" in error and hub.gets() == []


def test_the_missing_2k_checkpoint_is_explained(hub, capsys):
    assert main(["fetch", "pixelwizard-2k", "source.repo=who/some"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "announced the 2k checkpoint" in error


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["fetch", "pixelwizard-8k"], "source=pixelwizard-8k must be one of"),
        (["fetch", "pixelwizard-4k", "more"], "'more' is neither an option nor key=value"),
        (["fetch", "source.files=[../x]"], "which is not a path inside the folder"),
        (["fetch", "source.files=[]"], "source.files is empty"),
        (["fetch", "-m", "pixelwizard-4k,pixelwizard-lr"], "fetch runs once"),
        (["convert"], "out is missing"),
    ],
)
def test_a_mistake_is_one_sentence(words, sentence, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and sentence in error
