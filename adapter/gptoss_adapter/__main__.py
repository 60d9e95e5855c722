"""`python -m gptoss_adapter`: the HTTP process.

Stage: start-up.
Owns: how uvicorn runs the app: one process, one event loop, TLS, a graceful end, room for connections; what stops the
start.
Does not know: what the app does.
"""

from __future__ import annotations

import gc
import logging
import signal
import ssl
import sys
import threading
from pathlib import Path
from types import FrameType
from typing import Final

import uvicorn

from gptoss_adapter.app import create_app
from gptoss_adapter.connection import ConnectionLimits, connection_class
from gptoss_adapter.drain import Drain, DrainingServer
from gptoss_adapter.inference import ModelServer
from gptoss_adapter.keys import KeyFileError
from gptoss_adapter.logs import log_config
from gptoss_backend.loopback import is_loopback
from gptoss_backend.open_files import files_wanted, raise_limit
from gptoss_backend.settings import Settings, SettingsError
from gptoss_backend.settings_sources import load_settings, named_file

logger = logging.getLogger(__name__)

# after all requests have ended: for connections that are still open
_CLOSE_S: Final = 1
_NEW_OBJECTS: Final = 10_000
"""Between two collections of garbage: at Python's 700 these were a third of the time that a long conversation took."""


class StartError(Exception):
    """The server cannot start. The message is a sentence."""


def http_server(
    settings: Settings, model_server: ModelServer | None = None, settings_file: Path | None = None
) -> DrainingServer:
    """Return the server, not yet running. Reads no environment. Raises KeyFileError, StartError.

    model_server, settings_file: as `create_app` takes them.
    """
    drain, adapter = Drain(), settings.adapter
    config = uvicorn.Config(
        create_app(settings, model_server=model_server, drain=drain, settings_file=settings_file),
        host=settings.server.host,
        port=settings.server.port,
        loop="uvloop",
        http=connection_class(
            ConnectionLimits(adapter.max_header_bytes, adapter.header_timeout_s, adapter.write_timeout_s)
        ),
        ws="none",
        lifespan="on",
        log_config=log_config(adapter.log_level, adapter.log_format),
        access_log=False,  # edge.py writes the line, with what the request did
        server_header=False,
        # whole seconds to uvicorn's types, any number to its timer
        timeout_keep_alive=max(1, round(adapter.keepalive_timeout_s)),
        timeout_graceful_shutdown=_CLOSE_S,
        ssl_certfile=adapter.tls_certificate,
        ssl_keyfile=adapter.tls_key,
    )
    _load(config, settings)
    if adapter.keys_path is None and not is_loopback(settings.server.host):
        logger.warning("anyone who reaches %s may use this server: adapter.keys_path is not set", settings.server.host)
    return DrainingServer(config, drain, settings.server.shutdown_timeout_s)


def serve(settings: Settings, model_server: ModelServer | None = None, settings_file: Path | None = None) -> None:
    """Serve until SIGINT or SIGTERM, in the main thread. Reads no environment. Raises KeyFileError, StartError."""
    # until the server has its own handlers: an end that was asked for is not a failure
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _leave)
    server = http_server(settings, model_server, settings_file)
    _make_room_for_connections(settings)
    # half a second of work, for which the first who asks for /openapi.json would hold up all others
    described = threading.Thread(target=server.config.app.openapi, name="openapi")  # type: ignore[union-attr]
    described.start()
    # what is there now stays: without this, a full garbage collection looks through all of FastAPI between two tokens
    gc.collect()
    gc.freeze()
    gc.set_threshold(_NEW_OBJECTS, *gc.get_threshold()[1:])
    server.run()
    described.join()


def _make_room_for_connections(settings: Settings) -> None:
    """Raise the limit on open files; where that is low, say so: beyond, connections are closed without a word."""
    limit, wanted = raise_limit(), files_wanted(settings)
    if limit < wanted:
        logger.warning(
            "no more than %d files may be open here, and each connection is one: full engines make about %d. "
            "Raise the hard limit (LimitNOFILE of systemd, ulimits of a container)",
            limit,
            wanted,
        )


def _load(config: uvicorn.Config, settings: Settings) -> None:
    try:
        config.load()
    except (OSError, ssl.SSLError) as error:
        files = ", ".join(str(path) for path in (settings.adapter.tls_certificate, settings.adapter.tls_key) if path)
        raise StartError(f"cannot take adapter.tls_certificate and adapter.tls_key ({files}): {error}") from error


def _leave(number: int, frame: FrameType | None) -> None:
    sys.exit(0)


def main() -> None:
    """Serve as the settings say. Exits with a sentence where they are wrong."""
    try:
        serve(load_settings(), settings_file=named_file())
    except (SettingsError, KeyFileError, StartError) as error:
        sys.exit(f"gptoss_adapter: {error}")


if __name__ == "__main__":
    main()
