"""A model hub on this machine: the part of its HTTP interface that huggingface_hub speaks for a model's files."""

import base64
import contextlib
import hashlib
import http.server
import json
import re
import threading
from collections.abc import Generator
from typing import Any

import yaml

REPOSITORY = r"[^/]+/[^/]+"


class Hub(http.server.ThreadingHTTPServer):
    """Repositories as lists of commits, each a dictionary of files; and all requests in their order."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Door)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.commits: dict[str, list[tuple[str, dict[str, bytes]]]] = {}
        self.messages: list[str] = []
        self.private: dict[str, bool] = {}
        self.blobs: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.forbidden = False

    def files(self, repository: str) -> dict[str, bytes]:
        """The newest files of a repository."""
        return self.commits[repository][-1][1]

    def add(self, repository: str, files: dict[str, bytes]) -> str:
        """A commit of files over those before; its hash."""
        commits = self.commits[repository]
        files = {**(commits[-1][1] if commits else {}), **files}
        sha = hashlib.sha1(repr((len(commits), sorted(files.items()))).encode()).hexdigest()
        commits.append((sha, files))
        return sha


class Door(http.server.BaseHTTPRequestHandler):
    """One connection to the hub."""

    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None: ...

    def answer(self, content: Any, status: int = 200, **headers: str) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"content-length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def refuse(self, code: str, status: int = 404) -> None:
        self.answer({"error": code}, status, x_error_code=code, x_error_message=code)

    def body(self) -> bytes:
        if self.headers.get("transfer-encoding", "") == "chunked":
            chunks = []
            while size := int(self.rfile.readline(), 16):
                chunks.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(chunks)
        return self.rfile.read(int(self.headers.get("content-length", 0)))

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self.path.split("?")[0]
        self.server.asked.append(f"{self.command} {path}")
        found = re.fullmatch(rf"/api/models/({REPOSITORY})(?:/(revision|tree)/([^/]+))?", path)
        file = re.fullmatch(rf"/({REPOSITORY})/resolve/([^/]+)/(.+)", path)
        repository, revision = (found[1], found[3] or "main") if found else file.group(1, 2) if file else ("", "")
        commits = self.server.commits.get(repository)
        if not commits:
            return self.refuse("RepoNotFound")
        held = dict(commits) | {"main": commits[-1][1]}
        if revision not in held:
            return self.refuse("RevisionNotFound")
        sha = commits[-1][0] if revision == "main" else revision
        if file:
            content = held[revision].get(file[3])
            if content is None:
                return self.refuse("EntryNotFound")
            return self.answer(content, etag=f'"{hashlib.sha1(content).hexdigest()}"', x_repo_commit=sha)
        if found and found[2] == "tree":
            listed = held[revision].items()
            return self.answer(
                [{"type": "file", "path": k, "size": len(v), "oid": hashlib.sha1(v).hexdigest()} for k, v in listed]
            )
        return self.answer({"id": repository, "sha": sha, "siblings": [{"rfilename": k} for k in held[revision]]})

    def do_PUT(self) -> None:
        content, oid = self.body(), self.path.rsplit("/", 1)[1]
        assert hashlib.sha256(content).hexdigest() == oid
        self.server.blobs[oid] = content
        self.answer({})

    def do_POST(self) -> None:
        path, body = self.path.split("?")[0], self.body()
        self.server.asked.append(f"POST {path}")
        if self.server.forbidden:
            return self.refuse("Forbidden", 403)
        if path == "/api/repos/create":
            return self._create(json.loads(body))
        if path == "/api/validate-yaml":
            header = yaml.safe_load(json.loads(body)["content"].split("---\n")[1])
            assert header["license"]
            assert isinstance(header["tags"], list)
            return self.answer({"errors": [], "warnings": []})
        if found := re.fullmatch(rf"/({REPOSITORY}).git/info/lfs/objects/batch", path):
            upload = lambda oid: {"upload": {"href": f"{self.server.url}/lfs/{oid}"}}  # noqa: E731
            objects = [{**one, "actions": upload(one["oid"])} for one in json.loads(body)["objects"]]
            return self.answer({"transfer": "basic", "objects": objects})
        found = re.fullmatch(rf"/api/models/({REPOSITORY})/(preupload|commit)/main", path)
        if not found or found[1] not in self.server.commits:
            return self.refuse("RepoNotFound")
        if found[2] == "preupload":
            modes = {True: "lfs", False: "regular"}
            names = [file["path"] for file in json.loads(body)["files"]]
            files = [{"path": x, "uploadMode": modes[x.endswith(".safetensors")], "shouldIgnore": False} for x in names]
            return self.answer({"files": files})
        return self._commit(found[1], [json.loads(line) for line in body.splitlines()])

    def _create(self, wanted: dict[str, Any]) -> None:
        repository = f"{wanted['organization']}/{wanted['name']}"
        if repository in self.server.commits:
            return self.answer({"url": f"{self.server.url}/{repository}"}, 409)
        self.server.commits[repository] = []
        self.server.private[repository] = bool(wanted.get("private") or wanted.get("visibility") == "private")
        return self.answer({"url": f"{self.server.url}/{repository}"})

    def _commit(self, repository: str, lines: list[dict[str, Any]]) -> None:
        files = {}
        for line in lines:
            value = line["value"]
            if line["key"] == "header":
                self.server.messages.append(value["summary"])
            elif line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            else:
                files[value["path"]] = self.server.blobs[value["oid"]]
        sha = self.server.add(repository, files)
        self.answer({"commitUrl": f"{self.server.url}/{repository}/commit/{sha}", "commitOid": sha})


@contextlib.contextmanager
def running() -> Generator[Hub]:
    """A hub while the block runs."""
    hub = Hub()
    thread = threading.Thread(target=hub.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()
        thread.join()
