"""`python -m gptoss_adapter`: the HTTP process.

Stage: start-up.
Owns: how uvicorn runs the app: one process, one event loop, graceful ends.
Does not know: what the app does.
"""

from __future__ import annotations

import gc
import signal
import sys
from types import FrameType
from typing import Final

import uvicorn

from gptoss_adapter.app import create_app
from gptoss_adapter.logs import log_config
from gptoss_backend.settings import Settings, SettingsError, load_settings

# what is left of `server.shutdown_timeout_s`, before the supervisor kills, for telling open streams that they end
_FAREWELL_S: Final = 3


def http_server(settings: Settings) -> uvicorn.Server:
    """Return the server, not yet running. Reads no environment.

    Told to end, it takes no new connection; open ones have most of `server.shutdown_timeout_s` before they are ended.
    """
    config = uvicorn.Config(
        create_app(settings),
        host=settings.server.host,
        port=settings.server.port,
        loop="uvloop",
        http="httptools",
        ws="none",
        lifespan="on",
        log_config=log_config(settings.adapter.log_level),
        access_log=False,  # edge.py writes the line, with what the request did
        server_header=False,
        timeout_graceful_shutdown=max(1, int(settings.server.shutdown_timeout_s) - _FAREWELL_S),
    )
    return uvicorn.Server(config)


def serve(settings: Settings) -> None:
    """Serve until SIGINT or SIGTERM, in the main thread. Reads no environment."""
    # uvicorn raises the signal again after its shutdown: an end that was asked for is not a failure
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _leave)
    server = http_server(settings)
    # what is there now stays: without this, a full garbage collection looks through all of FastAPI between two tokens
    gc.collect()
    gc.freeze()
    server.run()


def _leave(number: int, frame: FrameType | None) -> None:
    sys.exit(0)


def main() -> None:
    """Serve as the settings say. Exits with a sentence where they are wrong."""
    try:
        settings = load_settings()
    except SettingsError as error:
        sys.exit(f"gptoss_adapter: {error}")
    serve(settings)


if __name__ == "__main__":
    main()
