"""What W&B has written into a folder, and a server that takes its runs."""

from __future__ import annotations

import json
import struct
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from wandb.proto.wandb_internal_pb2 import Record


def records(path: Path) -> Iterator[Record]:
    """The records of a W&B file: a log of LevelDB, 32 KiB blocks after a header of 7 bytes."""
    data, position, part = path.read_bytes(), 7, b""
    while position + 7 <= len(data):
        left = 32768 - position % 32768
        if left < 7:
            position += left
            continue
        _, length, kind = struct.unpack("<IHB", data[position : position + 7])
        part += data[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):
            yield Record.FromString(part)
            part = b""


def history(folder: Path) -> dict[str, Any]:
    """The last value of everything that a W&B run logged."""
    found: dict[str, Any] = {}
    for entry in records(next(folder.glob("run-*.wandb"))):
        for item in entry.history.item:
            found[item.key or ".".join(item.nested_key)] = json.loads(item.value_json)
    return found


def settings_of(folder: Path) -> dict[str, Any]:
    """The configuration that a W&B run logged."""
    found: dict[str, Any] = {}
    for entry in records(next(folder.glob("run-*.wandb"))):
        for update in (entry.run.config.update, entry.config.update):
            for item in update:
                found[item.key or ".".join(item.nested_key)] = json.loads(item.value_json)
    return found


class Server:
    """As much of W&B's server as a run asks of it; ``runs`` are the ids and job types it took."""

    def __init__(self) -> None:
        self.runs: list[tuple[str, str]] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.address = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Nobody answers from now on."""
        self._server.shutdown()
        self._server.server_close()

    def answer(self, query: str, values: dict[str, Any]) -> dict[str, Any]:
        """To a query of GraphQL: who asks, a run that is there from now on, or nothing."""
        if "viewer {" in query:
            viewer = {"id": "u", "entity": "me", "username": "me", "teams": {"edges": []}}
            return {"viewer": {**viewer, "email": "me@example.org", "flags": "{}", "admin": False}}
        if "mutation UpsertBucket" in query:
            if values["jobType"]:  # a change of what is there already has none
                self.runs.append((values["name"], values["jobType"]))
            owner = {"id": "p", "name": values["project"], "entity": {"id": "e", "name": "me"}}
            run = {"id": "b", "name": values["name"], "displayName": "run", "config": "{}"}
            return {"upsertBucket": {"bucket": {**run, "project": owner}, "inserted": True}}
        if "mutation CreateRunFiles" in query:
            return {"createRunFiles": {"runID": "b", "uploadHeaders": [], "files": []}}
        return {}

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        answer = self.answer

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                asked = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                found: dict[str, Any] = {}
                if self.path == "/graphql":
                    question = json.loads(asked)
                    found = {"data": answer(question["query"], question.get("variables") or {})}
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.end_headers()
                self.wfile.write(json.dumps(found).encode())

            def log_message(self, *words: object) -> None:
                """Say nothing."""

        return Handler
