"""POST /v1/responses with tools of type mcp that are not there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest

from support.fake_model_server import FakeModelServer
from support.mcp_server import DOCS, Seen
from support.responses_api import refusal, serving
from support.tool_fixtures import mcp_fixtures

url_and_server, seen = mcp_fixtures()


@pytest.mark.parametrize(
    ("tool", "param", "words"),
    [
        ({"server_label": "web"}, "tools[0].server_label", "has no MCP server 'web'; it has 'docs', 'down', 'other'"),
        ({"server_url": "http://10.0.0.1/mcp"}, "tools[0].server_url", "connects to the MCP servers of its operator"),
        ({"authorization": "abc"}, "tools[0].authorization", "adapter.mcp_servers"),
        ({"headers": {"a": "b"}}, "tools[0].headers", "adapter.mcp_servers"),
        ({"connector_id": "connector_gmail"}, "tools[0].connector_id", "server_label"),
        ({"tunnel_id": "t"}, "tools[0].tunnel_id", "server_label"),
        ({"require_approval": "sometimes"}, "tools[0].require_approval", "'always' or 'never'"),
        ({"allowed_tools": {}}, "tools[0].allowed_tools", "tool_names"),
        ({"allowed_tools": ["nope"]}, "tools", "has no tool 'nope'; it has search, delete"),
        ({"defer_loading": True}, "tools[0].defer_loading", "does not honour"),
        ({"colour": 1}, "tools[0].colour", "Unknown parameter"),
    ],
)
def test_tool_when_it_asks_for_what_is_not_there_then_400_says_so(
    client: httpx.Client, seen: Seen, tool: dict[str, Any], param: str, words: str
) -> None:
    error = refusal(client, tools=[{**DOCS, **tool}])
    assert error["param"] == param
    assert words in error["message"]
    assert seen.calls == []


def test_tool_when_its_url_is_the_operators_then_it_is_taken(
    client: httpx.Client, url_and_server: tuple[str, FakeModelServer]
) -> None:
    other = {**DOCS, "server_label": "down", "server_url": "http://127.0.0.1:9/mcp"}
    assert refusal(client, 424, tools=[other])["code"] == "http_error"


def test_tools_when_a_server_is_named_twice_then_400(client: httpx.Client) -> None:
    assert refusal(client, tools=[DOCS, DOCS])["param"] == "tools[1].server_label"


@pytest.mark.parametrize(
    "choice",
    [
        {"type": "mcp", "server_label": "web"},
        {"type": "mcp", "server_label": "docs", "name": "nope"},
        {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "mcp", "server_label": "web"}]},
    ],
)
def test_tool_choice_when_it_names_what_is_not_offered_then_400(client: httpx.Client, choice: object) -> None:
    error = refusal(client, tools=[DOCS], tool_choice=choice)
    assert (error["param"], error["code"]) == ("tool_choice", "invalid_value")


def test_server_without_mcp_servers_when_one_is_asked_for_then_400_says_where_they_are_set(tmp_path: Path) -> None:
    with (
        serving(tmp_path / "responses.sqlite", FakeModelServer()) as url,
        httpx.Client(base_url=url) as client,
    ):
        assert "adapter.mcp_servers" in refusal(client, tools=[DOCS])["message"]
