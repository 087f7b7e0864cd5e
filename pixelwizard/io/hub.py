"""Files of the Hugging Face hub -> a folder: only missing ones, resumed and checked.

The files lie in the hub's cache (``HF_HOME``), shared with other programs, and the folder has links
to them. A file enters the cache, and gets its link, only after its content has the sha256 that the
hub states (for small files the git hash). ``HF_HUB_OFFLINE``, ``HF_ENDPOINT`` and a token, from
``HF_TOKEN`` or a login, have their usual effect. The hub's client restarts an interrupted download
of a file, so the transfer is done here, in pieces.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import (
    constants,
    get_hf_file_metadata,
    hf_hub_download,
    hf_hub_url,
    try_to_load_from_cache,
)
from huggingface_hub.file_download import http_get, repo_folder_name
from huggingface_hub.utils import build_hf_headers

from pixelwizard.config.backbone import SourceSettings
from pixelwizard.io.files import remember
from pixelwizard.io.terminal import reason

Say = Callable[[str], None]
_CHUNK = 1 << 20
_SHA256, _SHA1 = 64, 40  # hexadecimal digits


class FetchError(ValueError):
    """A file could not be fetched; the text is one sentence."""


@dataclass(frozen=True)
class Remote:
    """A file on the hub: its hash (sha256, or sha1 of git), its size in bytes, its commit."""

    name: str
    etag: str
    size: int
    commit: str


def fetch(source: SourceSettings, say: Say = print) -> list[str]:
    """Bring the files of ``source`` into its folder; returns the names of those that were missing.

    Without a missing file nothing is asked of the network. Raises FetchError.
    """
    folder = Path(source.folder).expanduser()
    try:
        missing = [name for name in source.files if not (folder / name).is_file()]
        left = [name for name in missing if not _take_cached(source, name, folder, say)]
        if not left:
            return missing
        _refuse_offline(source, left)
        remotes = [_ask(source, name) for name in left]
        _refuse_full_disk(remotes)
        for number, remote in enumerate(remotes, 1):
            say(f"{remote.name} ({number} of {len(remotes)}, {remote.size / 1e9:.2f} GB)")
            _download(source, remote)
            if not _take_cached(source, remote.name, folder, say, remote.commit):
                raise FetchError(f"{remote.name} of {source.repo} did not reach the cache")
        return missing
    except OSError as error:
        raise FetchError(f"{source.name} cannot be put into {source.folder}: {error}") from error


def _take_cached(
    source: SourceSettings, name: str, folder: Path, say: Say, commit: str | None = None
) -> bool:
    """Link a file of the cache into the folder, if it exists with the right content."""
    found = try_to_load_from_cache(source.repo, name, revision=commit or source.revision)
    if not isinstance(found, str):
        return False
    blob = Path(found).resolve()
    if commit is None:
        say(f"{name}: in the cache already, checking it")
        if not _has_hash(blob, blob.name, source.repo):
            blob.unlink()
            Path(found).unlink(missing_ok=True)
            say(f"{name}: its content is damaged; it is fetched again")
            return False
    link = folder / name
    link.parent.mkdir(parents=True, exist_ok=True)
    link.unlink(missing_ok=True)
    link.symlink_to(Path(found).absolute())
    return True


def _refuse_offline(source: SourceSettings, left: list[str]) -> None:
    if constants.HF_HUB_OFFLINE:
        raise FetchError(
            f"{', '.join(left)} of {source.repo} not in the cache {constants.HF_HUB_CACHE}, and"
            " HF_HUB_OFFLINE forbids asking the hub; unset it, or set HF_HOME to a cache that has"
            " the files"
        )


def _refuse_full_disk(remotes: list[Remote]) -> None:
    cache = Path(constants.HF_HUB_CACHE)
    cache.mkdir(parents=True, exist_ok=True)
    needed, free = sum(remote.size for remote in remotes), shutil.disk_usage(cache).free
    if needed > free:
        raise FetchError(
            f"{needed / 1e9:.1f} GB are to be fetched into {cache}, which has {free / 1e9:.1f} GB"
            " left; set HF_HOME to a larger disk"
        )


def _ask(source: SourceSettings, name: str) -> Remote:
    """What the hub says about a file, without its content."""
    url = hf_hub_url(source.repo, name, revision=source.revision)
    try:
        known = get_hf_file_metadata(url)
    except Exception as error:  # the client's errors and those of its transport have no common base
        raise FetchError(_sentence(source, name, error)) from error
    if not known.etag or known.size is None or not known.commit_hash:
        raise FetchError(f"{url} is not a file of a hub: hash, size or commit are not stated")
    return Remote(name, known.etag, known.size, known.commit_hash)


def _download(source: SourceSettings, remote: Remote) -> None:
    """Fetch one file into the cache, continuing where an earlier attempt stopped."""
    blob = _blobs(source.repo) / remote.etag
    blob.parent.mkdir(parents=True, exist_ok=True)
    part = blob.with_name(f"{blob.name}.pixelwizard.incomplete")
    url = hf_hub_url(source.repo, remote.name, revision=remote.commit)
    try:
        with open(part, "ab") as file:
            if file.tell() > remote.size:
                file.truncate(0)
            if file.tell() < remote.size:
                http_get(
                    url,
                    file,
                    resume_size=file.tell(),
                    headers=build_hf_headers(),
                    expected_size=remote.size,
                    displayed_filename=remote.name,
                )
        if not _has_hash(part, remote.etag, source.repo):
            part.unlink()
            raise FetchError(
                f"{remote.name} of {source.repo} arrived damaged: its hash is not the hub's"
                f" {remote.etag[:12]}...; it was removed, the same command fetches it again"
            )
        os.replace(part, blob)
        # The client finds the content there and only gives it its place in the snapshot.
        hf_hub_download(source.repo, remote.name, revision=remote.commit)
    except FetchError:
        raise
    except Exception as error:  # see _ask
        raise FetchError(_sentence(source, remote.name, error)) from error
    if len(remote.etag) == _SHA256:
        remember(blob, remote.etag)
    _keep_revision(source, remote.commit)


def _keep_revision(source: SourceSettings, commit: str) -> None:
    """Remember which commit a name like ``main`` meant, as the client does."""
    if source.revision == commit:
        return
    ref = _blobs(source.repo).parent / "refs" / source.revision
    ref.parent.mkdir(parents=True, exist_ok=True)
    ref.write_text(commit)


def _blobs(repo: str) -> Path:
    folder = repo_folder_name(repo_id=repo, repo_type="model")
    return Path(constants.HF_HUB_CACHE) / folder / "blobs"


def _has_hash(path: Path, expected: str, repo: str) -> bool:
    """Whether a file has the hash that the hub names it by: sha256, or sha1 as git computes it."""
    if len(expected) == _SHA256:
        digest = hashlib.sha256()
    elif len(expected) == _SHA1:
        digest = hashlib.sha1(f"blob {path.stat().st_size}\0".encode(), usedforsecurity=False)
    else:
        raise FetchError(f"{repo} names a file by {expected!r}, which is not a hash known here")
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest() == expected


def _sentence(source: SourceSettings, name: str, error: Exception) -> str:
    """One line that says what could not be had and why."""
    kind = type(error).__name__
    where = f"{name} of {source.repo} at revision {source.revision}"
    if "EntryNotFound" in kind:
        return f"there is no {where}" + (f": {source.note}" if source.note else "")
    if "RevisionNotFound" in kind or "RepositoryNotFound" in kind or "Gated" in kind:
        return (
            f"{where} cannot be had ({kind}): it does not exist, or it needs a token; set HF_TOKEN"
            " or log in with: hf auth login"
        )
    return f"{where} did not arrive ({kind}: {reason(error)}); the same command continues"
