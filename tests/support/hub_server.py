"""A small Hugging Face Hub on a socket: one repository, in the few answers that a download asks for."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "0123456789abcdef0123456789abcdef01234567"


_COMMIT = {"X-Repo-Commit": COMMIT}


def etag(name: str, body: bytes) -> str:
    """Return what the Hub calls a file's version: of weights the SHA-256."""
    return (hashlib.sha256 if name.endswith(".safetensors") else hashlib.sha1)(body).hexdigest()


class LittleHub(ThreadingHTTPServer):
    """Serves one repository's files and notes what is asked for."""

    daemon_threads = True

    def __init__(self, repository: str, files: dict[str, bytes]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repository = repository
        self.files = files
        self.is_gated = False
        self.refusal: int | None = None
        """The status that answers everything, with a page for people."""
        self.fetched: list[str] = []
        self.ranges: list[str] = []
        """What was asked for of files in part."""
        self.stalls_after: int | None = None
        """How many bytes of a file are sent before no more come, until it is None again."""
        self.asked: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    server: LittleHub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""

    def _answer(self) -> None:
        path, hub = self.path.partition("?")[0], self.server
        hub.asked.append(path)
        api, resolve = f"/api/models/{hub.repository}", f"/{hub.repository}/resolve/{COMMIT}/"
        if hub.refusal is not None:
            self._send(hub.refusal, b"<html>Who are you?</html>", **{"Content-Type": "text/html"})
        elif not path.startswith((api, f"/{hub.repository}/")):
            self._send(404, b'{"error": "Repository not found"}', **{"X-Error-Code": "RepoNotFound"})
        elif hub.is_gated:
            self._send(403, b'{"error": "Access is restricted"}', **{"X-Error-Code": "GatedRepo"})
        elif path.startswith(f"{api}/revision/") and path.rpartition("/")[2] not in (COMMIT, "main"):
            self._send(404, b'{"error": "Invalid rev id"}', **{"X-Error-Code": "RevisionNotFound"})
        elif path.startswith(f"{api}/tree/"):
            self._send_document([self._entry(name) for name in hub.files])
        elif path.startswith(api):
            files = [{"rfilename": name} for name in hub.files]
            self._send_document({"id": hub.repository, "sha": COMMIT, "siblings": files})
        elif (name := path.removeprefix(resolve)) in hub.files:
            if self.command == "GET":
                hub.fetched.append(name)
            self._send_file(name)
        else:
            self._send(404, b"", **{"X-Error-Code": "EntryNotFound"})

    def _send_file(self, name: str) -> None:
        body, asked, told = self.server.files[name], self.headers.get("Range"), {}
        if asked is not None:
            self.server.ranges.append(asked)
            begin = int(asked.removeprefix("bytes=").removesuffix("-"))
            told = {"Content-Range": f"bytes {begin}-{len(body) - 1}/{len(body)}"}
            body = body[begin:]
        self._send(206 if told else 200, body, ETag=f'"{etag(name, self.server.files[name])}"', **told | _COMMIT)

    def _entry(self, name: str) -> dict[str, object]:
        body = self.server.files[name]
        return {"type": "file", "path": name, "size": len(body), "oid": hashlib.sha1(body).hexdigest()}

    def _send_document(self, document: object) -> None:
        self._send(200, json.dumps(document).encode(), **{"Content-Type": "application/json"})

    def _send(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, text in headers.items():
            self.send_header(name, text)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            with suppress(ConnectionError):  # a puller that is killed
                self._write(body)

    def _write(self, body: bytes) -> None:
        sent = self.server.stalls_after
        self.wfile.write(body[:sent])
        if sent is not None and sent < len(body):
            while self.server.stalls_after is not None:
                time.sleep(0.01)
            self.close_connection = True


@contextmanager
def little_hub(repository: str, files: dict[str, bytes]) -> Iterator[LittleHub]:
    """Run one for a while."""
    with LittleHub(repository, files) as hub:
        thread = threading.Thread(target=hub.serve_forever, args=(0.01,), name="hub")
        thread.start()
        try:
            yield hub
        finally:
            hub.shutdown()
            thread.join()
