"""POST /v1/responses with OpenAI's own tools whose calls fail or are not made."""

from __future__ import annotations

import httpx
import pytest

from gptoss_backend.contract import FinishReason
from support.fake_model_server import FakeModelServer, answer, token_ids
from support.hosted_servers import CODE, SEARCH, Browsed, browsing, coding
from support.mcp_server import kinds
from support.responses_api import of_kind, respond
from support.tool_fixtures import hosted_fixtures

url_and_server, seen = hosted_fixtures()


@pytest.mark.parametrize(
    ("turn", "kind", "words"),
    [
        (coding("fail"), "code_interpreter_call", "The tool failed: "),
        (browsing("search", topn=1), "web_search_call", "The tool failed: "),
        (browsing("open", id=99), "web_search_call", "Error opening link: "),
    ],
)
def test_call_when_it_fails_then_the_model_is_told_and_answers(
    client: httpx.Client, server: FakeModelServer, turn: str, kind: str, words: str
) -> None:
    server.scripts = [answer(turn)]
    told = respond(client, tools=[CODE, SEARCH])
    [call] = of_kind(told, kind)
    assert call["status"] == ("completed" if words.startswith("Error") else "failed")
    assert (server.chats[1].messages[-1].content or "").startswith(words)
    assert told["status"] == "completed"


def test_answer_when_it_is_cut_within_a_call_then_nothing_is_run(
    client: httpx.Client, server: FakeModelServer, seen: Browsed
) -> None:
    cut = browsing("search", query="tower").removesuffix("<|call|>")
    server.scripts = [answer(cut, reason=FinishReason.LENGTH)]
    told = respond(client, tools=[SEARCH])
    assert (told["status"], kinds(told["output"]), seen.calls) == ("incomplete", ["reasoning"], [])
    server.scripts = [answer(coding("1").removesuffix("<|call|>"), reason=FinishReason.LENGTH)]
    told = respond(client, tools=[CODE])
    assert told["output"][-1]["status"] == "incomplete"
    assert seen.calls == []


def test_answer_when_no_tokens_are_left_behind_a_call_then_it_is_not_run(
    client: httpx.Client, server: FakeModelServer, seen: Browsed
) -> None:
    turn = browsing("search", query="tower")
    server.scripts = [answer(turn)]
    told = respond(client, tools=[SEARCH], max_output_tokens=len(token_ids(turn)))
    assert (told["output"][-1]["type"], told["output"][-1]["status"]) == ("web_search_call", "incomplete")
    assert seen.calls == []
