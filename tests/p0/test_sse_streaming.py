"""A stream is well-formed events in OpenAI's order, sent as tokens come, and says what the whole answer says."""

from __future__ import annotations

import json
import time
from typing import Any

import httpx
import pytest

REQUEST: dict[str, Any] = {
    "messages": [{"role": "user", "content": "Count to twenty."}],
    "max_tokens": 48,
    "temperature": 1.0,
    "seed": 11,
    "ignore_eos": True,
}


@pytest.fixture(scope="module")
def events(http: httpx.Client, model: str) -> list[tuple[float, str]]:
    """The data of one stream's events with the moments they came at."""
    body = REQUEST | {"model": model, "stream": True, "stream_options": {"include_usage": True}}
    seen = []
    with http.stream("POST", "/v1/chat/completions", json=body) as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        for line in answer.iter_lines():
            assert line == "" or line.startswith((":", "data: "))
            if line.startswith("data: "):
                seen.append((time.monotonic(), line.removeprefix("data: ")))
    return seen


@pytest.fixture(scope="module")
def chunks(events: list[tuple[float, str]]) -> list[dict[str, Any]]:
    return [json.loads(text) for _, text in events[:-1]]


def test_stream_when_it_ends_then_its_last_event_is_done(events: list[tuple[float, str]]) -> None:
    assert [text for _, text in events].index("[DONE]") == len(events) - 1


def test_stream_when_read_then_all_chunks_are_of_one_answer(chunks: list[dict[str, Any]], model: str) -> None:
    [(id_, kind, name)] = {(chunk["id"], chunk["object"], chunk["model"]) for chunk in chunks}
    assert id_.startswith("chatcmpl-")
    assert (kind, name) == ("chat.completion.chunk", model)


def test_stream_when_read_then_role_first_and_finish_reason_and_usage_last(chunks: list[dict[str, Any]]) -> None:
    *spoken, usage = chunks
    assert spoken[0]["choices"][0]["delta"]["role"] == "assistant"
    reasons = [chunk["choices"][0]["finish_reason"] for chunk in spoken]
    assert [reason for reason in reasons if reason] == [reasons[-1]] == ["length"]
    assert usage["choices"] == []
    assert usage["usage"]["completion_tokens"] == REQUEST["max_tokens"]


def test_stream_when_joined_then_it_says_what_the_whole_answer_says(
    http: httpx.Client, model: str, chunks: list[dict[str, Any]]
) -> None:
    whole = http.post("/v1/chat/completions", json=REQUEST | {"model": model}).raise_for_status().json()
    message = whole["choices"][0]["message"]
    for field in ("content", "reasoning"):
        deltas = (choice["delta"].get(field) for chunk in chunks for choice in chunk["choices"])
        assert "".join(delta or "" for delta in deltas) == (message.get(field) or "")


def test_stream_when_the_answer_is_long_then_it_comes_bit_by_bit(http: httpx.Client, model: str) -> None:
    moments = []
    body = REQUEST | {"model": model, "stream": True, "max_tokens": 512}
    with http.stream("POST", "/v1/chat/completions", json=body) as answer:
        moments = [time.monotonic() for line in answer.iter_lines() if line.startswith("data: ")]
    # held back and sent as one, all would come within a moment of the end
    assert moments[len(moments) // 2] - moments[0] > 0.2 * (moments[-1] - moments[0])
    assert len(moments) > 10


def test_stream_when_the_request_is_bad_then_an_error_and_no_stream(http: httpx.Client, model: str) -> None:
    refused = http.post("/v1/chat/completions", json={"model": model, "messages": [], "stream": True})
    assert refused.status_code == 400
    assert refused.headers["content-type"] == "application/json"
    assert refused.json()["error"]["param"] == "messages"
