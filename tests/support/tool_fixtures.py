"""The fixtures of tests of tools that servers run: an adapter before a scripted model and real MCP servers.

A test module says `url_and_server, seen = mcp_fixtures()`, and those two are fixtures then. Both live as long as the
module; a test finds forgotten what the servers were asked before it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol, TypeVar

import pytest

from support.fake_model_server import FakeModelServer
from support.hosted_servers import Browsed, hosted_servers
from support.mcp_server import SECRET, Seen, mcp_server
from support.responses_api import serving


class Forgetful(Protocol):
    """What servers were asked."""

    def forget(self) -> None: ...


S = TypeVar("S", bound=Forgetful)


def mcp_fixtures() -> tuple[object, object]:
    """Return fixtures of the servers `docs`, which works, `down` and `other`; the second is a Seen."""
    return _fixtures(Seen(), _docs_and_broken_ones, mcp_timeout_s=1.0, mcp_max_result_chars=1024)


def hosted_fixtures() -> tuple[object, object]:
    """Return fixtures of servers that stand in for OpenAI's own; the second is a Browsed."""
    hosted = {"web_search": "browser", "code_interpreter": "python"}
    return _fixtures(Browsed(), hosted_servers, hosted_tools=hosted, mcp_timeout_s=5.0)


@contextmanager
def _docs_and_broken_ones(seen: Seen) -> Iterator[dict[str, object]]:
    with mcp_server(seen) as url:
        yield {
            "docs": {"url": url, "headers": {"Authorization": SECRET}},
            "down": "http://127.0.0.1:9/mcp",
            "other": url.replace("/mcp", "/nothing"),
        }


def _fixtures(
    asked: S, servers: Callable[[S], AbstractContextManager[Mapping[str, object]]], **adapter: object
) -> tuple[object, object]:
    @pytest.fixture(scope="module")
    def url_and_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, FakeModelServer]]:
        server = FakeModelServer()
        store = tmp_path_factory.mktemp("store") / "responses.sqlite"
        with servers(asked) as mcp_servers, serving(store, server, mcp_servers=mcp_servers, **adapter) as url:
            yield url, server

    @pytest.fixture(autouse=True)
    def seen() -> S:
        asked.forget()
        return asked

    return url_and_server, seen
