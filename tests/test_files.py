"""Files are written whole or not at all; a folder has one writer at a time."""

from __future__ import annotations

import errno
import json
import os
import platform
import re
import subprocess
import sys
from pathlib import Path

import pytest

from pixelwizard.config.schema import ConfigError
from pixelwizard.io import files
from pixelwizard.io.files import atomic, read_json, remove_unfinished, write_json
from pixelwizard.records.run_folder import LOCK, locked


def test_a_file_that_fails_halfway_leaves_the_old_one(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"old": 1})
    with pytest.raises(RuntimeError), atomic(tmp_path / "a.json") as part:
        part.write_text("half")
        raise RuntimeError
    assert read_json(tmp_path / "a.json") == {"old": 1}
    assert os.listdir(tmp_path) == ["a.json"]


def test_a_folder_is_replaced_whole(tmp_path: Path) -> None:
    for name in ("one", "two"):
        with atomic(tmp_path / "page") as part:
            part.mkdir()
            (part / name).touch()
    assert os.listdir(tmp_path) == ["page"] and os.listdir(tmp_path / "page") == ["two"]


@pytest.mark.parametrize(
    ("size", "said"), [(10**18, "[0-9.]+ MB are missing"), (0, "[0-9.]+ MB free")]
)
def test_a_full_disk_says_where_and_how_much(tmp_path: Path, size: int, said: str) -> None:
    with pytest.raises(OSError, match=f"the disk is full, {said}.*{tmp_path}") as caught:
        with atomic(tmp_path / "a", size) as part:
            part.touch()
            raise OSError(errno.ENOSPC, "No space left on device")
    assert caught.value.errno == errno.ENOSPC and not os.listdir(tmp_path)


def test_a_damaged_json_file_is_named(tmp_path: Path) -> None:
    for content in ("{", "[]", "[" * 100_000, "\x00"):
        (tmp_path / "a.json").write_text(content)
        with pytest.raises(ConfigError, match=f"{tmp_path}/a.json is damaged"):
            read_json(tmp_path / "a.json")


def test_unfinished_files_go_once_their_writer_has_ended(tmp_path: Path) -> None:
    ended = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"],
                           capture_output=True, text=True).stdout.strip()  # fmt: skip
    here = platform.node()
    names = {
        "dead": f"a.mp4.{here}.{ended}.part",
        "alive": f"a.mp4.{here}.{os.getpid()}.part",
        "far": f"b.mp4.elsewhere.{ended}.part",
        "old": f"c.mp4.elsewhere.{ended}.part",
        "theirs": "notes.part",
    }
    for name in names.values():
        (tmp_path / name).touch()
    os.utime(tmp_path / names["old"], (0, 0))
    remove_unfinished(tmp_path)
    assert set(os.listdir(tmp_path)) == {names["alive"], names["far"], names["theirs"]}


def test_a_folder_has_one_writer_who_is_named(tmp_path: Path) -> None:
    with locked(tmp_path, "pixelwizard seed=1"):
        said = rf"run_dir={tmp_path} is in use by process {os.getpid()} on .* since .*seed=1"
        with pytest.raises(ConfigError, match=said), locked(tmp_path):
            pass
        assert json.loads((tmp_path / LOCK).read_text())["command"] == "pixelwizard seed=1"
    with locked(tmp_path):
        pass
    assert not os.listdir(tmp_path)


def test_a_lock_ends_with_its_holder_however_it_ends(tmp_path: Path) -> None:
    code = """
import os, signal, sys
from pathlib import Path
from pixelwizard.records.run_folder import locked
with locked(Path(sys.argv[1])):
    os.kill(os.getpid(), signal.SIGKILL)
"""
    ended = subprocess.run([sys.executable, "-c", code, tmp_path])
    assert ended.returncode == -9 and (tmp_path / LOCK).exists()
    with locked(tmp_path):
        pass
    assert not (tmp_path / LOCK).exists()


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    said = re.escape(f"out={tmp_path}/file/x: {tmp_path}/file is a file; choose another folder")
    with pytest.raises(ConfigError, match=said), locked(tmp_path / "file" / "x", key="out"):
        pass


def test_a_process_is_known_to_be_alive() -> None:
    assert files.is_alive(os.getpid()) and not files.is_alive(2**22 + 1)
