"""The operator's MCP servers: sessions, lists, and what stops the start; with a real server over a socket."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from gptoss_adapter.app import create_app
from gptoss_adapter.errors import McpListingError
from gptoss_adapter.mcp_servers.results import result_text, shortened
from gptoss_adapter.mcp_servers.sdk_session import SdkSession
from gptoss_adapter.mcp_servers.servers import McpServers
from gptoss_adapter.mcp_servers.tools import CallResult, ListedTool, McpOutcome
from gptoss_adapter.metrics import Metrics
from gptoss_adapter.responses.server_tools.mcp_tools import function_of
from gptoss_backend.settings import AdapterSettings, SettingsError
from gptoss_backend.settings_sources import load_settings
from support.mcp_server import Seen, mcp_server


@pytest.fixture(scope="module")
def url_and_seen() -> Iterator[tuple[str, Seen]]:
    seen = Seen()
    with mcp_server(seen) as url:
        yield url, seen


def settings_of(url: str, **adapter: object) -> AdapterSettings:
    sections = {"adapter": {"mcp_servers": {"docs": url}, "mcp_timeout_s": 2.0, **adapter}}
    return load_settings(sections, environ={}).adapter


def servers_at(url: str) -> McpServers:
    settings = settings_of(url)
    return McpServers(settings, Metrics(), lambda label: SdkSession(label, settings.mcp_servers[label], "0"))


class ScriptedSession:
    """A session that does as it is told."""

    def __init__(self, tools: Callable[[], list[ListedTool]]) -> None:
        self._tools = tools
        self.is_over = False

    async def tools(self) -> list[ListedTool]:
        await asyncio.sleep(0)
        return self._tools()

    async def instructions(self) -> str | None:
        return None

    async def call(self, name: str, arguments: object) -> CallResult:
        raise ConnectionError("gone")

    def end(self) -> None:
        self.is_over = True


async def no_tasks_left() -> bool:
    """Return whether sessions end by themselves, soon."""
    for _ in range(200):
        if not [task for task in asyncio.all_tasks() if task.get_name() == "mcp-session"]:
            return True
        await asyncio.sleep(0.005)
    return False


def test_sessions_when_a_response_makes_several_calls_then_it_has_one_and_the_next_response_another(
    url_and_seen: tuple[str, Seen],
) -> None:
    url, seen = url_and_seen

    async def ask() -> list[int]:
        servers, costs = servers_at(url), []
        for _ in range(2):
            calls = servers.calls()
            for query in ("a", "b"):
                before = seen.num_requests
                result = await calls.call("docs", "search", f'{{"query": "{query}"}}')
                assert result == CallResult(McpOutcome.COMPLETED, f"Found: {query}")
                costs.append(seen.num_requests - before)
            calls.end()
        assert await no_tasks_left()
        return costs

    first, second, third, fourth = asyncio.run(ask())
    assert second == fourth == 1
    assert first == third > 1


def test_session_when_its_task_is_not_the_callers_then_a_cancelled_call_ends_and_the_session_does(
    url_and_seen: tuple[str, Seen],
) -> None:
    url, seen = url_and_seen
    seen.forget()

    async def ask() -> None:
        calls = servers_at(url).calls()
        call = asyncio.create_task(calls.call("docs", "wait", '{"seconds": 1.5}'))
        while not seen.calls:
            await asyncio.sleep(0.005)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        calls.end()
        assert await no_tasks_left()
        while not seen.cancelled:
            await asyncio.sleep(0.005)

    asyncio.run(asyncio.wait_for(ask(), 5))


def test_list_when_many_ask_at_once_then_it_is_fetched_once_and_remembered() -> None:
    made: list[ScriptedSession] = []

    def connect(label: str) -> ScriptedSession:
        made.append(ScriptedSession(lambda: [ListedTool("f", None, {}, None)]))
        return made[-1]

    async def ask() -> None:
        servers = McpServers(settings_of("http://host/mcp"), Metrics(), connect)
        one, *others = await asyncio.gather(*(servers.tools("docs") for _ in range(5)))
        assert [tool.name for tool in one] == ["f"]
        assert others == [one] * 4
        assert await servers.tools("docs") == one

    asyncio.run(ask())
    assert [session.is_over for session in made] == [True]


def test_list_when_it_fails_then_all_who_wait_are_told_and_the_next_tries_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    made: list[ScriptedSession] = []

    def fail() -> list[ListedTool]:
        raise ExceptionGroup("several", [ValueError("a secret\n2026-11-28 INFO of the network")])

    def connect(label: str) -> ScriptedSession:
        made.append(ScriptedSession(fail))
        return made[-1]

    async def ask() -> None:
        servers = McpServers(settings_of("http://host/mcp"), Metrics(), connect)
        for _ in range(2):
            told = await asyncio.gather(*(servers.tools("docs") for _ in range(3)), return_exceptions=True)
            assert all(isinstance(one, McpListingError) and "secret" not in str(one) for one in told)

    asyncio.run(ask())
    assert len(made) == 2
    told = "the tools of the MCP server docs cannot be listed: ValueError: a secret 2026-11-28 INFO of the network"
    assert [record.getMessage() for record in caplog.records] == [told, told]


def test_call_when_its_session_breaks_then_the_next_begins_another() -> None:
    made: list[ScriptedSession] = []

    def connect(label: str) -> ScriptedSession:
        made.append(ScriptedSession(list))
        return made[-1]

    async def ask() -> None:
        calls = McpServers(settings_of("http://host/mcp"), Metrics(), connect).calls()
        for _ in range(2):
            assert (await calls.call("docs", "f", "{}")).outcome is McpOutcome.UNREACHABLE

    asyncio.run(ask())
    assert [session.is_over for session in made] == [True, True]


def test_tool_when_its_name_is_none_of_a_function_then_the_list_cannot_be_had_and_the_error_names_it() -> None:
    with pytest.raises(McpListingError, match=r"'docs'.*'my tool'.*'allowed_tools'"):
        function_of(ListedTool("my tool", None, {}, None), "docs")


def test_start_when_the_package_is_missing_then_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gptoss_adapter.mcp_servers.sdk_session", None)  # type: ignore[arg-type]
    settings = load_settings({"model": "demo", "adapter": {"mcp_servers": {"docs": "http://h/mcp"}}}, environ={})
    with pytest.raises(SettingsError, match=r"adapter\.mcp_servers is set.*gptoss-triton\[mcp\]"):
        create_app(settings)


@pytest.mark.parametrize(
    "wrong",
    [
        {"docs": "ftp://host/mcp"},
        {"docs": "http://"},
        {"my docs": "http://host/mcp"},
        {"docs": {"url": "http://host/mcp", "header": {"a": "b"}}},
        {"docs": {"url": "http://host/mcp", "headers": {"A": "b\nC: d"}}},
        {"docs": {"url": "http://host/mcp", "headers": {"A:": "b"}}},
    ],
)
def test_settings_when_a_server_is_malformed_then_the_start_stops_with_its_name(wrong: dict[str, object]) -> None:
    with pytest.raises(SettingsError, match=r"^adapter\.mcp_servers\."):
        load_settings({"adapter": {"mcp_servers": wrong}}, environ={})


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        (
            {"web_search": "browser"},
            r"^adapter: .*hosted_tools\.web_search is browser, which is none of the mcp_servers",
        ),
        ({"browser": "docs"}, r"^adapter\.hosted_tools\.browser.*'web_search' or 'code_interpreter'"),
    ],
)
def test_settings_when_a_hosted_tool_or_its_server_is_unknown_then_the_start_stops_with_its_name(
    wrong: dict[str, object], sentence: str
) -> None:
    with pytest.raises(SettingsError, match=sentence):
        load_settings({"adapter": {"mcp_servers": {"docs": "http://h/mcp"}, "hosted_tools": wrong}}, environ={})


def test_settings_when_a_hosted_tool_is_named_by_a_variable_then_it_is_read() -> None:
    environ = {
        "GPTOSS_ADAPTER__MCP_SERVERS__BROWSER__URL": "http://host/mcp",
        "GPTOSS_ADAPTER__HOSTED_TOOLS__WEB_SEARCH": "browser",
    }
    assert load_settings({}, environ=environ).adapter.hosted_tools == {"web_search": "browser"}


def test_settings_when_a_server_is_named_by_variables_then_it_is_read() -> None:
    environ = {
        "GPTOSS_ADAPTER__MCP_SERVERS__CRM__URL": "http://host/mcp",
        "GPTOSS_ADAPTER__MCP_SERVERS__CRM__HEADERS__AUTHORIZATION": "Bearer x",
    }
    [server] = load_settings(environ=environ).adapter.mcp_servers.values()
    assert (server.url, server.headers) == ("http://host/mcp", {"authorization": "Bearer x"})


@pytest.mark.parametrize(
    ("part", "text"),
    [
        ({"type": "text", "text": "<|end|>"}, "<|end|>"),
        ({"type": "image", "mimeType": "image/png", "data": "AA"}, "image/png"),
        ({"type": "resource", "resource": {"uri": "a:b", "text": "inside"}}, "inside"),
        ({"type": "resource", "resource": {"uri": "a:b", "blob": "AA", "mimeType": "x/y"}}, "a:b (x/y)"),
        ({"type": "resource_link", "name": "n", "uri": "a:b"}, "[A link to n: a:b]"),
    ],
)
def test_result_when_it_has_parts_then_each_is_told_in_words(part: dict[str, Any], text: str) -> None:
    told = result_text([part, {"type": "text", "text": "end"}])
    assert text in told
    assert told.endswith("\nend")
    assert "AA" not in told


def test_result_when_it_is_only_structured_then_it_is_told_as_json() -> None:
    assert result_text([], {"a": ["é"]}) == '{"a": ["é"]}'


@pytest.mark.parametrize("num", [0, 9, 10])
def test_result_when_it_is_short_then_it_is_whole(num: int) -> None:
    assert shortened("x" * num, 10) == "x" * num


def test_result_when_it_is_long_then_its_beginning_is_told() -> None:
    assert shortened("x" * 11, 10) == (
        f"{'x' * 10}\n\n[This result is cut: of its 11 characters these are the first 10.]"
    )
