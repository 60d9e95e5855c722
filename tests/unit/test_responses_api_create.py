"""POST /v1/responses, whole answers: what is told."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from gptoss_backend.contract import (
    FinishReason,
)
from support.fake_model_server import CACHED_TOKENS, HELLO, PROMPT_TOKENS, FakeModelServer, answer, token_ids
from support.responses_api import CALL, MODEL, WEATHER, respond, serving


@pytest.fixture(scope="module")
def url_and_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, FakeModelServer]]:
    server = FakeModelServer()
    with serving(tmp_path_factory.mktemp("store") / "responses.sqlite", server) as url:
        yield url, server


def test_response_when_whole_then_it_holds_the_output_the_usage_and_what_was_asked(client: httpx.Client) -> None:
    told = respond(client, "Hi", instructions="Be brief.", metadata={"a": "b"}, user="me", temperature=0.5)
    reasoning, message = told["output"]
    for item, prefix in ((told, "resp_"), (reasoning, "rs_"), (message, "msg_")):
        assert item.pop("id").startswith(prefix)
    assert reasoning == {
        "type": "reasoning",
        "status": "completed",
        "summary": [],
        "content": [{"type": "reasoning_text", "text": "Easy."}],
    }
    assert message == {
        "type": "message",
        "status": "completed",
        "role": "assistant",
        "content": [{"type": "output_text", "text": "Hello!", "annotations": [], "logprobs": []}],
        "phase": "final_answer",
    }
    num_tokens = len(HELLO) - 1
    assert told["usage"] == {
        "input_tokens": PROMPT_TOKENS,
        "input_tokens_details": {
            "cached_tokens": CACHED_TOKENS,
            "cache_write_tokens": PROMPT_TOKENS - CACHED_TOKENS,
        },
        "output_tokens": num_tokens,
        "output_tokens_details": {"reasoning_tokens": len(token_ids("<|channel|>analysis<|message|>Easy.<|end|>"))},
        "total_tokens": PROMPT_TOKENS + num_tokens,
    }
    assert told["completed_at"] >= told["created_at"]
    expected = {
        "object": "response",
        "status": "completed",
        "error": None,
        "incomplete_details": None,
        "model": MODEL,
        "instructions": "Be brief.",
        "metadata": {"a": "b"},
        "user": "me",
        "temperature": 0.5,
        "top_p": 1.0,
        "max_output_tokens": None,
        "previous_response_id": None,
        "tools": [],
        "tool_choice": "auto",
        "parallel_tool_calls": True,
        "text": {"format": {"type": "text"}, "verbosity": "medium"},
        "reasoning": {"effort": "medium", "summary": None},
        "truncation": "disabled",
        "background": False,
        "store": True,
        "service_tier": "default",
        "top_logprobs": 0,
    }
    assert {name: told[name] for name in expected} == expected


def test_response_when_the_model_calls_functions_then_each_call_is_an_item(
    client: httpx.Client, server: FakeModelServer
) -> None:
    server.script = answer(
        CALL + CALL.replace("Look it up.", "Again.").replace("Oslo", "Rome").join(("<|start|>assistant", ""))
    )
    told = respond(client, tools=[WEATHER])
    assert [item["type"] for item in told["output"]] == ["reasoning", "function_call"] * 2
    first, second = told["output"][1], told["output"][3]
    assert (first["name"], first["arguments"], first["status"]) == ("weather", '{"city":"Oslo"}', "completed")
    assert second["arguments"] == '{"city":"Rome"}'
    assert first["call_id"].startswith("call_")
    assert first["id"].startswith("fc_")
    assert first["call_id"] != second["call_id"]
    assert told["output"][2]["content"] == [{"type": "reasoning_text", "text": "Again."}]  # no empty line before it
    assert told["tools"] == [WEATHER]
    assert told["status"] == "completed"


@pytest.mark.parametrize(
    ("harmony", "kinds"),
    [
        ("<|channel|>analysis<|message|>So many", ["reasoning"]),
        (
            "<|channel|>analysis<|message|>Easy.<|end|><|start|>assistant<|channel|>final<|message|>Hel",
            ["reasoning", "message"],
        ),
        (CALL.removesuffix('lo"}<|call|>'), ["reasoning", "function_call"]),
    ],
    ids=["reasoning", "message", "call"],
)
def test_response_when_the_budget_is_spent_then_it_and_its_last_item_are_incomplete(
    client: httpx.Client, server: FakeModelServer, harmony: str, kinds: list[str]
) -> None:
    server.script = answer(harmony, reason=FinishReason.LENGTH)
    told = respond(client, max_output_tokens=5, tools=[WEATHER])
    assert told["status"] == "incomplete"
    assert told["incomplete_details"] == {"reason": "max_output_tokens"}
    assert told["completed_at"] is None
    assert [item["type"] for item in told["output"]] == kinds
    assert [item["status"] for item in told["output"]] == ["completed"] * (len(kinds) - 1) + ["incomplete"]
    assert told["usage"]["output_tokens"] == len(token_ids(harmony))


def test_response_when_a_stop_token_falls_inside_a_call_then_the_call_is_incomplete(
    client: httpx.Client, server: FakeModelServer
) -> None:
    server.script = answer(CALL.removesuffix('lo"}<|call|>'))
    told = respond(client, tools=[WEATHER])
    assert [(item["type"], item["status"]) for item in told["output"]][-1] == ("function_call", "incomplete")


def test_response_when_a_stop_string_comes_then_the_text_ends_before_it(client: httpx.Client) -> None:
    told = respond(client, stop="llo")
    assert told["output"][1]["content"][0]["text"] == "He"
    assert told["status"] == "completed"


def test_response_when_the_model_says_nothing_then_there_are_no_items(
    client: httpx.Client, server: FakeModelServer
) -> None:
    server.script = answer("<|return|>")
    told = respond(client)
    assert (told["status"], told["output"]) == ("completed", [])


def test_response_when_a_tool_is_called_that_nobody_offered_then_the_model_writes_on(
    client: httpx.Client, server: FakeModelServer
) -> None:
    server.scripts = [answer("<|channel|>commentary to=browser.search code<|message|>{}<|call|>")]
    response = respond(client)
    assert [item["type"] for item in response["output"]] == ["reasoning", "message"]
    assert response["output"][1]["content"][0]["text"] == "Hello!"
    assert response["usage"]["input_tokens"] == 2 * PROMPT_TOKENS
