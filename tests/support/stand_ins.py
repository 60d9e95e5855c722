"""Stand-ins for tritonserver and the adapter: real processes on real ports, up within moments."""

from __future__ import annotations

import socket
import sys
from pathlib import Path

TRITONSERVER = """#!{python}
import argparse, http.server, os, pathlib, signal, sys

parser = argparse.ArgumentParser()
for flag in ("--model-repository", "--http-address", "--http-port"):
    parser.add_argument(flag)
options, _ = parser.parse_known_args()
print("config", os.environ["GPTOSS_CONFIG"], flush=True)
if (pathlib.Path(options.model_repository) / "broken").exists():
    sys.exit("error: failed to load the model")

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        marks = ("slow", f"slow-{{options.http_port}}")
        if any((pathlib.Path(options.model_repository) / mark).exists() for mark in marks):
            return
        self.send_response(200 if self.path == "/v2/health/ready" else 404)
        self.end_headers()

signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(0))
http.server.ThreadingHTTPServer((options.http_address, int(options.http_port)), Handler).serve_forever()
"""

ADAPTER = """import http.server, os, signal, sys
from gptoss_backend.settings_sources import load_settings

server = load_settings().server
print("settings", sorted(name for name in os.environ if name.startswith("GPTOSS_")), flush=True)

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == "/health" else 404)
        self.end_headers()

signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(0))
http.server.ThreadingHTTPServer((server.host, server.port), Handler).serve_forever()
"""


def write_tritonserver(folder: Path) -> Path:
    """Make `folder`/bin with an executable `tritonserver`; return the folder to put on PATH.

    It is broken when its model repository holds a file `broken`, and never ready while that holds a file `slow`, or
    `slow-PORT` with its HTTP port.
    """
    binary = folder / "bin" / "tritonserver"
    binary.parent.mkdir(parents=True)
    binary.write_text(TRITONSERVER.format(python=sys.executable))
    binary.chmod(0o755)
    return binary.parent


def write_adapter(folder: Path) -> Path:
    """Make a package `gptoss_adapter` in `folder`; return the folder to put on PYTHONPATH, before the real one."""
    package = folder / "gptoss_adapter"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "__main__.py").write_text(ADAPTER)
    return folder


def free_ports(count: int) -> list[int]:
    """Return ports of the loopback address that nobody listens on."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for candidate in sockets:
            candidate.bind(("127.0.0.1", 0))
        return [candidate.getsockname()[1] for candidate in sockets]
    finally:
        for candidate in sockets:
            candidate.close()
