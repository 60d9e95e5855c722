"""POST /v1/responses with OpenAI's own tools, where they are not honoured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest

from support.fake_model_server import FakeModelServer
from support.hosted_servers import CODE, SEARCH, Browsed, hosted_servers
from support.responses_api import WEATHER, refusal, respond, serving
from support.tool_fixtures import hosted_fixtures

url_and_server, seen = hosted_fixtures()


@pytest.mark.parametrize(
    ("tool", "param", "code"),
    [
        ({**SEARCH, "filters": {"allowed_domains": ["a.b"]}}, "filters.allowed_domains", "unsupported_parameter"),
        ({**SEARCH, "search_context_size": "huge"}, "search_context_size", "invalid_value"),
        ({**SEARCH, "search_content_types": ["text", "image"]}, "search_content_types", "unsupported_parameter"),
        ({**SEARCH, "max_uses": 3}, "max_uses", "unknown_parameter"),
        ({**CODE, "container": "cntr_1"}, "container", "unsupported_parameter"),
        ({**CODE, "container": {"type": "auto", "file_ids": ["f"]}}, "container.file_ids", "unsupported_parameter"),
        (
            {**CODE, "container": {"type": "auto", "memory_limit": "4g"}},
            "container.memory_limit",
            "unsupported_parameter",
        ),
    ],
)
def test_option_when_it_is_not_honoured_then_it_is_refused_by_name(
    client: httpx.Client, server: FakeModelServer, tool: dict[str, Any], param: str, code: str
) -> None:
    error = refusal(client, tools=[WEATHER, tool])
    assert (error["param"], error["code"]) == (f"tools[1].{param}", code)


def test_tool_when_it_is_named_twice_then_the_second_is_refused(client: httpx.Client, server: FakeModelServer) -> None:
    assert refusal(client, tools=[SEARCH, {"type": "web_search_preview"}])["param"] == "tools[1].type"


def test_tools_when_nobody_runs_them_then_the_search_is_left_out_and_code_is_refused(tmp_path: Path) -> None:
    server = FakeModelServer()
    with serving(tmp_path / "a.sqlite", server) as url, httpx.Client(base_url=url) as client:
        assert respond(client, tools=[{**SEARCH, "filters": {"allowed_domains": ["a.b"]}}])["tools"] == []
        error = refusal(client, tools=[CODE])
        assert error["param"] == "tools[0].type"
        assert "adapter.hosted_tools" in error["message"]
        assert "adapter.hosted_tools" in refusal(client, tools=[SEARCH], tool_choice=SEARCH)["message"]


def test_server_when_it_lacks_a_tool_or_is_down_then_the_request_fails_in_openais_words(
    tmp_path: Path, seen: Browsed
) -> None:
    with hosted_servers(seen) as mcp_servers:
        settings: dict[str, Any] = {
            "mcp_servers": {**mcp_servers, "down": "http://127.0.0.1:9/mcp"},
            "hosted_tools": {"web_search": "nothing", "code_interpreter": "down"},
        }
        with serving(tmp_path / "a.sqlite", FakeModelServer(), **settings) as url, httpx.Client(base_url=url) as client:
            assert "'nothing'. It has no tool 'search'" in refusal(client, 424, tools=[SEARCH])["message"]
            assert "'down'. It cannot be reached" in refusal(client, 424, tools=[CODE])["message"]
