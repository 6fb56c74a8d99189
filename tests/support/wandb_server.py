"""A server of Weights & Biases on this machine: what wandb 0.31 asks for, and what it keeps of the rows of a run.

It answers by the names of the queries (wandb's own .graphql files have them) and knows nothing of users or keys. A row is
put where the client says, as the real server does: an offset of 0 writes over what is there.
"""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

Json = dict[str, Any]


@dataclass
class KeptRun:
    """A run as the server has it."""

    settings: Json = field(default_factory=dict)
    rows: list[Json] = field(default_factory=list)
    summary: Json = field(default_factory=dict)


class WandbServer(ThreadingHTTPServer):
    """Keeps runs by their id."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.runs: dict[str, KeptRun] = {}
        self.artifacts: list[Json] = []  # as they were asked for

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing of clients that hang up."""

    def answer(self, query: str, given: Json) -> Json:
        """Return what a query of this name is answered."""
        name = given.get("name") or ""
        match query:
            case "RunResumeStatus":
                return {"model": {"id": "p", "name": "demo", "entity": ENTITY, "bucket": self._bucket(name)}}
            case "UpsertBucket":
                known = self.runs.setdefault(name, KeptRun())
                known.settings |= {key: value for key, value in given.items() if value is not None}
                project = {"id": "p", "name": given["project"], "entity": ENTITY}
                bucket = {"id": "b", "name": name, "displayName": given["displayName"], "project": project}
                return {"upsertBucket": {"bucket": bucket, "inserted": not known.rows}}
            case "CreateRunFiles":
                files = [{"name": file, "uploadUrl": f"{self.url}/upload"} for file in given["files"]]
                return {"createRunFiles": {"runID": "b", "uploadHeaders": [], "files": files}}
            case "Viewer":
                return {"viewer": {"id": "v", "entity": "me", "username": "me", "flags": "{}", "teams": {"edges": []}}}
            case "ArtifactType":  # asked whether there is one of another type by this name
                return {"project": {"artifact": None}}
            case "CreateArtifact":  # which is there already: nothing is uploaded
                self.artifacts.append(given["input"])
                sequence = {"id": "s", "latestArtifact": {"id": "a", "versionIndex": 0}}
                return {"createArtifact": {"artifact": {"id": "a", "state": "COMMITTED", "artifactSequence": sequence}}}
            case _:
                return {}

    def _bucket(self, name: str) -> Json | None:
        run = self.runs.get(name)
        if run is None:
            return None
        tail = [json.dumps(row) for row in run.rows[-1:]]
        return {
            "id": "b", "name": name, "summaryMetrics": json.dumps(run.summary), "displayName": "kept",
            "historyLineCount": len(run.rows), "historyTail": json.dumps(tail), "eventsLineCount": 0,
            "eventsTail": "[]", "logLineCount": 0, "config": "{}", "tags": [], "wandbConfig": '{"t": {"value": 1}}',
        }  # fmt: skip

    def take(self, name: str, files: Json) -> None:
        """Keep rows and summary of a run."""
        run = self.runs.setdefault(name, KeptRun())
        if history := files.get("wandb-history.jsonl"):
            rows = [json.loads(line) for line in history["content"]]
            run.rows[history["offset"] : history["offset"] + len(rows)] = rows
        if summary := files.get("wandb-summary.json"):
            run.summary = json.loads(summary["content"][-1])


ENTITY = {"id": "e", "name": "me"}


class _Handler(BaseHTTPRequestHandler):
    server: WandbServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments: object) -> None:
        """Say nothing."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        answer: Json = {}
        if self.path == "/graphql":
            asked = json.loads(body)
            name = re.search(r"(?:query|mutation)\s+(\w+)", asked["query"])
            assert name
            answer = {"data": self.server.answer(name[1], asked.get("variables") or {})}
        elif self.path.endswith("/file_stream"):
            self.server.take(self.path.split("/")[-2], json.loads(body).get("files", {}))
        content = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_PUT = do_POST


@contextmanager
def wandb_server() -> Iterator[WandbServer]:
    """Run a server in a thread."""
    server = WandbServer()
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
